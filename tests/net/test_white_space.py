"""White space at the ends of what gRPC's libraries write, between a real client and a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from freeports import free_port
from net_scene import UNARY, EndpointsFile, Grpc, SidecarProcess, loopback


@pytest.fixture
def backend() -> Iterator[Grpc]:
    made = Grpc(loopback(), free_port(), fails="not found: ")
    yield made
    made.stop()


@pytest.fixture
def sidecar(tmp_path: Path, backend: Grpc) -> Iterator[SidecarProcess]:
    file = EndpointsFile(tmp_path, backend.port)
    file.write([backend.host])
    made = SidecarProcess(tmp_path, "--source", f"file:{file.path}").ready()
    yield made
    made.kill()


def test_a_status_whose_message_ends_in_a_space_arrives(backend: Grpc, sidecar: SidecarProcess) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{sidecar.port}", options=[("grpc.enable_retries", 0)]) as channel:
        for _ in range(3):
            with pytest.raises(grpc.RpcError) as failed:
                channel.unary_unary(UNARY)(b"", timeout=20, metadata=[("x-note", " kept ")])
            assert failed.value.code() is grpc.StatusCode.NOT_FOUND, failed.value
            assert failed.value.details().strip() == "not found:"
            assert str(backend.metadata["x-note"]).strip() == "kept"
    assert backend.begun == 3
    assert sidecar.service()["grpc_status"] == {"5": 3}
