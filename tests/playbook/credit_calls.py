"""A call whose answer has begun, and how much of a body has come: what the tests of credit begin with."""

from __future__ import annotations

from rawhttp2 import OK, Data, headers
from transcript import BackendConnection, Client, World


def open_call(world: World, client: Client) -> tuple[int, BackendConnection]:
    """A call with its response begun: the client's number, and the backend that has it (as its newest)."""
    stream = client.calls()
    (backend,) = [c for c in world.connections() if c.inbox]
    backend.take()
    backend.sends(headers(max(backend.streams_open()), OK))
    client.take()
    return stream, backend


def body_of(party: Client | BackendConnection, stream: int) -> int:
    """Octets of DATA of one stream; takes them, leaves the rest."""
    size = sum(len(e.payload) for e in party.inbox if isinstance(e, Data) and e.stream == stream)
    party.inbox = [e for e in party.inbox if not (isinstance(e, Data) and e.stream == stream)]
    return size
