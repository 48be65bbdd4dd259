"""The checked-in generated code is what greeter.proto says."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import generate
import greeter_pb2 as pb
import pytest
from google.protobuf import descriptor_pb2
from grpc_tools import protoc  # type: ignore[import-untyped]
from programs import GREETER

GENERATED = ("greeter_pb2.py", "greeter_pb2.pyi", "greeter_pb2_grpc.py")
MADE_BY = re.search(r"GRPC_GENERATED_VERSION = '([^']+)'", (GREETER / "greeter_pb2_grpc.py").read_text())


def test_the_descriptor_is_the_one_protoc_makes_now(tmp_path: Path) -> None:
    """Holds with every version of grpcio-tools."""
    out = tmp_path / "set"
    assert protoc.main(["protoc", f"-I{GREETER}", f"--descriptor_set_out={out}", generate.PROTO]) == 0
    (expected,) = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    actual = descriptor_pb2.FileDescriptorProto.FromString(pb.DESCRIPTOR.serialized_pb)
    expected.ClearField("source_code_info")
    for field in (field for message in expected.message_type for field in message.field):
        field.ClearField("json_name")  # protoc fills it in for a set and not for Python
    assert actual == expected


def test_the_stub_and_the_types_name_every_method() -> None:
    for generated in ("greeter_pb2_grpc.py", "greeter_pb2_grpc.pyi"):
        text = (GREETER / generated).read_text()
        for method in pb.DESCRIPTOR.services_by_name["Greeter"].methods:
            assert re.search(rf"\b{method.name}\b", text), f"{generated} lacks {method.name}"


def test_with_the_same_tools_the_files_are_the_same(tmp_path: Path) -> None:
    assert MADE_BY is not None
    if importlib.metadata.version("grpcio-tools") != MADE_BY[1]:
        pytest.skip(f"made by grpcio-tools {MADE_BY[1]}; another version may write it differently")
    script = "import generate, pathlib, sys; generate.generate(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=GREETER, check=True, timeout=60)
    for name in GENERATED:
        assert (tmp_path / name).read_text() == (GREETER / name).read_text(), f"run generate.py: {name}"
