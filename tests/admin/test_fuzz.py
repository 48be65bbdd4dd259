"""Whatever comes: nothing is raised, every connection ends, and the port goes on answering."""

from __future__ import annotations

from admin_fakes import FakeView, Port, parsed
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.admin.server import is_local_name, is_loopback, wants_openmetrics

PIECES = st.sampled_from(
    [
        *(b"GET ", b"POST ", b"HEAD ", b"/livez", b"/metrics", b"/drain", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n"),
        *(
            b"Host: localhost\r\n",
            b"Content-Length: 5\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"\r\n",
            b"\n",
        ),
        *(
            b"5\r\nhello\r\n0\r\n\r\n",
            b"Expect: 100-continue\r\n",
            b"Connection: close\r\n",
            b"Upgrade: h2c\r\n",
        ),
        *(
            b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
            b"HEAD /status HTTP/1.1\r\nHost: [::1]\r\n\r\n",
            b"\x00",
        ),
    ]
)
CHUNKS = st.lists(st.one_of(st.binary(max_size=40), PIECES), max_size=25)
STEPS = st.sampled_from(["nothing", "wait", "stall", "flow", "end"])


@settings(max_examples=400, deadline=None)
@given(chunks=st.lists(st.tuples(CHUNKS, STEPS), max_size=6), host=st.sampled_from(["127.0.0.1", "10.0.0.1"]))
def test_any_bytes_in_any_pieces(chunks: list[tuple[list[bytes], str]], host: str) -> None:
    port = Port(FakeView())
    peer = port.connect(host)
    for data, step in chunks:
        for piece in [b"".join(data)] if step == "nothing" else data:
            if piece:
                peer.send(piece)
        if step == "wait":
            port.wait(1)
        elif step in ("stall", "flow"):
            peer.wire.stalled = step == "stall"
        elif step == "end":
            peer.send(b"")
    port.wait(200)
    assert peer.closed
    assert port.server.open_connections == 0
    assert port.logged == []
    if host != "127.0.0.1":
        assert port.drained == 0
    assert parsed(port.connect().asks("GET /livez HTTP/1.1\nHost: x\n\n"))[0] == 200


@given(st.text(max_size=60))
def test_header_values_are_judged_without_raising(text: str) -> None:
    assert wants_openmetrics(text) in (True, False)
    assert is_local_name(text) in (True, False)
    assert is_loopback(text) in (True, False)


@given(st.ip_addresses())
def test_every_address_is_a_local_name_and_few_are_loopback(address: object) -> None:
    text = f"[{address}]" if ":" in str(address) else str(address)
    assert is_local_name(text)
    assert is_local_name(text + ":15020")
    if not str(address).startswith(("127.", "::1", "::ffff:")):
        assert not is_loopback(str(address))
