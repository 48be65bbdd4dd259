"""Which endpoints of a Service port may be given new streams, written from the EndpointSlice specification
(KEP-752, KEP-1672, the API's field comments) and not from the code, over the objects as JSON has them."""

from __future__ import annotations

from typing import Any


def may_be_given_streams(slices: list[dict[str, Any]], port_name: str) -> set[tuple[str, int]]:
    """(address, port) of every ready endpoint; where there is none, of every one that serves as it terminates."""
    ready, draining = set(), set()
    for one in slices:
        numbers = [
            p["port"]
            for p in one["ports"]
            if (p.get("name") or "") == port_name and p.get("protocol") != "UDP" and p["port"] is not None
        ]
        for member in one["endpoints"]:
            state = member["conditions"]
            is_ready = state.get("ready") is not False
            is_serving = is_ready if state.get("serving") is None else state["serving"]
            for number in numbers:
                if is_ready:
                    ready.add((member["addresses"][0], number))
                elif is_serving and state.get("terminating") is True:
                    draining.add((member["addresses"][0], number))
    return ready or draining
