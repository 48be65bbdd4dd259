# ruff: noqa: N802
# Written by hand: grpcio ships no types and its plugin writes none, so what comes from it is Any.
from typing import Any

class GreeterStub:
    SayHello: Any
    SayHellos: Any
    GatherHellos: Any
    Chat: Any
    def __init__(self, channel: Any) -> None: ...

class GreeterServicer: ...

def add_GreeterServicer_to_server(servicer: GreeterServicer, server: Any) -> None: ...
