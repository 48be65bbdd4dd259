"""Exceptions in a real sidecar, planted in streams of a method of their own: it tells of them and goes on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile_mesh import GRPC_CALL, Backend, Caller, Mesh, request_to, until
from hostile_peers import Attacker
from rawhttp2 import Goaway, Reset, data, headers

INTERNAL_ERROR = 2
# In the sidecar's place: the same, but that in each turn of its owner the streams of two methods are spoilt, so that
# the next octets of the request (or of the answer) raise when they are taken, and nothing else does.
SPOILT = """
import sys
from sidecar import __main__, app

turn = app.Sidecar.turn

def spoil_and_turn(self, now):
    for downstream in self.engine.downstreams:
        for stream in downstream.streams.values():
            if stream.path == b"/test.Hostile/Swallow":
                stream.request.replay = [None]
            if stream.path == b"/test.Hostile/Large":
                stream.response.held = [None]
    return turn(self, now)

app.Sidecar.turn = spoil_and_turn
raise SystemExit(__main__.main(sys.argv[4:]))
"""


@pytest.fixture
def spoilt(tmp_path: Path, backend: Backend) -> Iterator[Mesh]:
    services = {"good": [backend.address], "bad": [backend.address]}
    found = Mesh(tmp_path, services, wrapper=[sys.executable, "-c", SPOILT])
    yield found
    found.stop()


def test_an_exception_ends_its_connection_and_is_told(spoilt: Mesh) -> None:
    caller = Caller(spoilt.target("good"))
    bad = spoilt.ports["bad"]
    try:
        client = Attacker(bad)
        client.send(headers(1, request_to("Swallow")))
        until(lambda: spoilt.status()["services"][1]["endpoints"][0]["open_streams"] == 1, "it is open")
        assert spoilt.status()  # asked after it was open: a turn of the owner has come since
        client.send(data(1, GRPC_CALL))
        client.read_to_the_end()
        told = client.goaway()
        assert told is not None
        assert told.code == INTERNAL_ERROR
        client.close()

        client = Attacker(bad)
        client.send(headers(1, request_to("Large")))
        until(lambda: spoilt.status()["services"][1]["endpoints"][0]["open_streams"] == 1, "it is open")
        assert spoilt.status()
        client.send(data(1, b"\0\0\0\0\x01" + b"9", True))
        client.read_until(lambda: client.count(Reset), "the stream ends")
        assert [e.code for e in client.events if isinstance(e, Reset)] == [INTERNAL_ERROR]
        assert client.count(Goaway) == 0, "the client's connection goes on"
        client.close()

        def settled() -> bool:
            service = spoilt.status()["services"][1]
            return bool(service["queued_streams"] == service["endpoints"][0]["open_streams"] == 0)

        until(settled, "no stream is left")
        caller.goes_on()
        assert not caller.failures
        engine = spoilt.status()["engine"]
        assert engine["internal_errors"] == {"receive": 2}
        assert engine["last_internal_error"].startswith("receive: TypeError: ")
        assert spoilt.metric("evenstream_internal_errors_total", during="receive") == 2
        log = spoilt.log()
        assert log.count("Traceback") == 2
        assert log.count("internal error, receive; please report it") == 2
    finally:
        caller.stop()
