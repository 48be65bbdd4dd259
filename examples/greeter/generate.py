"""Make greeter_pb2.py, greeter_pb2.pyi and greeter_pb2_grpc.py from greeter.proto: `python generate.py`.

Needs grpcio-tools. The result is checked in, so that running the example needs only grpcio and protobuf;
tests/demo fails when it is not what greeter.proto says.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from grpc_tools import protoc  # type: ignore[import-untyped]

HERE = Path(__file__).resolve().parent
PROTO = "greeter.proto"


def generate(out: Path) -> None:
    """Write the generated files into the directory `out`. Raises RuntimeError if protoc fails."""
    places = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
    status = protoc.main(["protoc", f"-I{HERE}", *places, PROTO])
    if status:
        raise RuntimeError(f"protoc ended with status {status}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0] + ".")
    parser.parse_args()
    try:
        generate(HERE)
    except RuntimeError as error:
        sys.exit(f"generate.py: {error}")
