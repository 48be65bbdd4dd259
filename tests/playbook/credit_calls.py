"""A call whose answer has begun, and how much of a body has come: what the tests of credit begin with."""

from __future__ import annotations

from rawhttp2 import OK, Data, data, headers
from transcript import BackendConnection, Client, World

from sidecar.wire.connection import RESPONSE_WINDOW


def open_call(world: World, client: Client) -> tuple[int, BackendConnection]:
    """A call with its response begun: the client's number, and the backend that has it (as its newest)."""
    stream = client.calls()
    (backend,) = [c for c in world.connections() if c.inbox]
    backend.take()
    backend.sends(headers(max(backend.streams_open()), OK))
    client.take()
    return stream, backend


def send_as_granted(backend: BackendConnection, stream: int, size: int) -> None:
    """So much of a response that has just begun, no faster than the backend is given credit for it."""
    credit = RESPONSE_WINDOW
    while size:
        now = min(credit, size)
        assert now > 0, f"no credit for {size} octets more"
        backend.sends(data(stream, bytes(now)))
        credit += backend.granted(stream) - now
        size -= now
    assert credit == 0, f"{credit} octets more than were wanted are granted"


def body_of(party: Client | BackendConnection, stream: int) -> int:
    """Octets of DATA of one stream; takes them, leaves the rest."""
    size = sum(len(e.payload) for e in party.inbox if isinstance(e, Data) and e.stream == stream)
    party.inbox = [e for e in party.inbox if not (isinstance(e, Data) and e.stream == stream)]
    return size
