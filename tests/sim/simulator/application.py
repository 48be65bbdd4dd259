"""A gRPC client: connections to its sidecar, calls on them, cancellations, deadlines, transparent retries."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NamedTuple

import hpack
import rawhttp2 as wire

from simulator.calls import Call, Outcome
from simulator.http2 import Fields, Side, Stream
from simulator.network import End, Weather

if TYPE_CHECKING:
    from simulator.world import World

# gRFC A6: what was certainly not begun is sent again, once if it may have left the client.
MAX_TRANSPARENT_RETRIES = 2
RECONNECT_FIRST = 0.05
RECONNECT_MOST = 1.0


class Habits(NamedTuple):
    """What one HTTP/2 client stack does differently from the next."""

    eager: bool = False  # sends its first requests before the server's SETTINGS have come
    encoder: str = "literal"  # literal, obedient (a table until told 0) or stateful (a table for ever)
    initial_window: int = 65_535
    window: int = 65_535
    pads: bool = False
    weather: Weather = Weather(latency=0.00005)


class ClientConnection(Side):
    def __init__(self, application: Application, end: End, rng: random.Random) -> None:
        habits = application.habits
        self.application = application
        self.next_number = 1
        self.ready_at = float("inf")
        self.leaving = False  # GOAWAY has come: nothing new
        self.refuse_above = 1 << 31
        self._encoder = hpack.Encoder()
        self._first_block = True
        settings = {wire.INITIAL_WINDOW_SIZE: habits.initial_window}
        clock = application.world.clock
        super().__init__(clock, end, end.name, True, settings, habits.window, rng, habits.pads)
        end.owner = self._opening

    def _opening(self, end: End) -> None:
        if end.error:
            self.closed = True
            self.application.not_connected(self)
        elif end.connected:
            end.owner = self._look
            self.flush()
            if self.application.habits.eager:
                self.application.connected(self)
            self._look(end)

    def ready(self) -> None:
        self.ready_at = self.clock.now
        if self.application.habits.encoder == "obedient":
            self._encoder.header_table_size = 0
        self.application.connected(self)

    def usable(self) -> bool:
        started = self.peer_ready or (self.application.habits.eager and self.end.connected)
        return started and not self.leaving and not self.closed

    # --- calls -----------------------------------------------------------------------------------

    def start(self, call: Call) -> None:
        stream = self.open(self.next_number)
        self.next_number += 2
        stream.call = call
        call.attempts += 1
        call.response_received = 0
        now = call.attempted_at = self.clock.now
        if call.opened_at < 0.0:
            call.opened_at = now
        script = call.script
        self.application.world.log("%s sends %s as stream %d", self.name, call, stream.number)
        self.write(wire.headers(stream.number, self._block(call), not script.request))
        if script.request:
            self._say(stream, 0)
        else:
            stream.end, stream.sent_end = b"", True
        if script.cancel >= 0.0:
            self.clock.at(call.opened_at + script.cancel, lambda: self._give_up(stream, "cancelled"))
        if script.deadline >= 0.0:
            self.clock.at(call.made_at + script.deadline, lambda: self._give_up(stream, "deadline"))
        self.flush()

    def _block(self, call: Call) -> bytes:
        script = call.script
        fields = [
            (":method", "POST" if script.request else "GET"),
            (":scheme", "http"),
            (":path", script.method),
            (":authority", f"{call.service}:50051"),
            ("content-type", "application/grpc" if script.grpc else "application/json"),
            ("te", "trailers"),
            ("x-call", str(call.number)),
        ]
        if script.metadata:
            fields.append(("x-blob", "b" * script.metadata))
        if script.sized:
            fields.append(("content-length", str(len(call.request))))
        if script.deadline >= 0.0:
            left = max(0.0, call.made_at + script.deadline - self.clock.now)
            fields.append(("grpc-timeout", f"{int(left * 1000)}m"))
        if self.application.habits.encoder == "literal":
            block = wire.literal(fields)
            if self._first_block:
                self._first_block = False
                return b"\x20" + block
            return block
        return self._encoder.encode(fields, huffman=sum(len(v) for _, v in fields) < 1000)

    def _say(self, stream: Stream, at: int) -> None:
        """The message `at`, and when the next one follows."""
        call: Call = stream.call
        if stream.reset or stream.end is not None or (call.outcome is not None and not call.script.stubborn):
            return
        sizes = call.script.request
        if at >= len(sizes):
            self.send(stream, b"", b"")
            self.flush()
            return
        start = sum(sizes[:at])
        last = at == len(sizes) - 1 and (call.script.kind != "bidi" or call.script.gap == 0.0)
        self.send(stream, call.request[start : start + sizes[at]], b"" if last else None)
        self.flush()
        if not last and call.script.kind != "bidi":
            self.clock.after(call.script.gap, lambda: self._say(stream, at + 1))
        stream.said = at + 1

    def _give_up(self, stream: Stream, why: str) -> None:
        call: Call = stream.call
        if call.outcome is None and stream.number in self.streams and not self.closed:
            self.reset(stream, wire.CANCEL)
            self.flush()
            self.application.world.ended(call, Outcome(why))

    # --- hooks -----------------------------------------------------------------------------------

    def headers(self, stream: Stream, fields: Fields, end: bool) -> None:
        call: Call = stream.call
        found = dict(fields)
        status = int(found.get(":status", "-1"))
        if 100 <= status < 200:
            return
        if status >= 0:
            stream.http_status = status
            stream.answered = True
        elif not stream.answered:
            self.application.world.violated("http2", f"{call}: trailers before headers")
        if end:
            grpc = call.script.grpc
            number = int(found.get("grpc-status", "-1")) if grpc else stream.http_status
            if (
                found.get("grpc-message") == "as told"
                and len(found.get("x-blob", "")) != call.script.metadata
            ):
                self.application.world.violated("bytes", f"{call}: the trailers are not as they were sent")
            self._complete(stream, Outcome("status", number, found.get("grpc-message", "")))

    def data(self, stream: Stream, payload: bytes, end: bool) -> None:
        call: Call = stream.call
        got = call.response_received
        if stream.http_status == 200 and payload != call.response[got : got + len(payload)]:
            self.application.world.violated("bytes", f"{call}: the response differs at {got}")
        if stream.http_status == 200:
            call.response_received += len(payload)
        else:
            stream.text += payload
        if call.script.client_stall and not stream.stalled and got == 0:
            self.stall(stream, call.script.client_stall)
        if end:
            message = stream.text.decode() if stream.text else ""
            self._complete(stream, Outcome("status", -1 if call.script.grpc else stream.http_status, message))
        elif call.script.kind == "bidi":
            self._converse(stream)

    def _converse(self, stream: Stream) -> None:
        """In a bidirectional call each answer brings the next message."""
        call: Call = stream.call
        sizes, said = call.script.response, stream.said
        if said and call.response_received >= sum(sizes[:said]) > 0 and stream.asked < said:
            stream.asked = said
            self.clock.after(call.script.gap, lambda: self._say(stream, said))

    def _complete(self, stream: Stream, outcome: Outcome) -> None:
        call: Call = stream.call
        self.application.world.ended(call, outcome)
        if stream.end is not None:
            return
        if not call.script.stubborn:
            self.reset(stream, wire.NO_ERROR)
        elif call.script.kind == "bidi":
            said = sum(call.script.request[: stream.said])
            self.send(stream, call.request[said:], b"")

    def was_reset(self, stream: Stream, code: int) -> None:
        call: Call = stream.call
        if call.outcome is not None:
            return
        if code == wire.REFUSED_STREAM and not stream.answered:
            if stream.number > self.refuse_above:
                self.application.again(call)
                return
            if call.attempts <= MAX_TRANSPARENT_RETRIES:
                self.application.world.count("transparent retries by applications")
                self.application.again(call)
                return
        self.application.world.ended(call, Outcome("reset", code))

    def goaway(self, last: int) -> None:
        self.leaving = True
        self.refuse_above = min(self.refuse_above, last)
        self.application.left(self)
        for stream in [s for s in self.streams.values() if s.number > last]:
            del self.streams[stream.number]
            self.buried[stream.number] = "reset here"
            stream.reset = True
            if stream.call.outcome is None:
                self.application.again(stream.call)

    def lost(self, why: str) -> None:
        self.application.left(self)
        streams, self.streams = list(self.streams.values()), {}
        for stream in streams:
            stream.reset = True
            if stream.call.outcome is None:
                self.application.world.ended(stream.call, Outcome("lost", -1, why))


class Application:
    """One channel: a connection at a time, and calls that wait for it."""

    def __init__(self, world: World, name: str, address: str, service: str, habits: Habits) -> None:
        self.world = world
        self.name = name
        self.address = address
        self.service = service
        self.habits = habits
        self.current: ClientConnection | None = None
        self.connections: list[ClientConnection] = []
        self._waiting: list[Call] = []
        self._failures = 0

    def call(self, call: Call) -> None:
        connection = self.current
        if connection is not None and connection.usable():
            connection.start(call)
            return
        self._waiting.append(call)
        script = call.script
        if script.deadline >= 0.0:
            self.world.clock.at(call.made_at + script.deadline, lambda: self._too_late(call))
        if connection is None:
            self._dial()

    def again(self, call: Call) -> None:
        """A transparent retry: not within the turn that asked for it."""
        self.world.log("%s tries %s again", self.name, call)
        self.world.clock.after(0.0, lambda: self.call(call))

    def _too_late(self, call: Call) -> None:
        if call in self._waiting:
            self._waiting.remove(call)
            self.world.ended(call, Outcome("deadline"))

    def _dial(self) -> None:
        world = self.world
        end = world.network.dial(self.name, self.address, self.habits.weather)
        self.current = ClientConnection(self, end, random.Random(f"{world.seed}/{end.name}"))
        self.connections.append(self.current)

    def connected(self, connection: ClientConnection) -> None:
        self._failures = 0
        if connection is self.current:
            waiting, self._waiting = self._waiting, []
            for call in waiting:
                self.call(call)

    def not_connected(self, connection: ClientConnection) -> None:
        self.connections.remove(connection)
        if connection is self.current:
            self.current = None
            wait = min(RECONNECT_MOST, RECONNECT_FIRST * 2**self._failures)
            self._failures += 1
            self.world.clock.after(wait, self._redial)

    def _redial(self) -> None:
        if self._waiting and self.current is None:
            self._dial()

    def left(self, connection: ClientConnection) -> None:
        """The connection takes nothing new."""
        if connection.closed and connection in self.connections:
            self.connections.remove(connection)
        if connection is self.current:
            self.current = None
            if self._waiting:
                self._dial()

    def close(self, rude: bool = False) -> None:
        """The program ends its connections; calls on them are given up."""
        for connection in list(self.connections):
            for stream in list(connection.streams.values()):
                if stream.call.outcome is None:
                    self.world.ended(stream.call, Outcome("cancelled"))
            connection.streams.clear()
            if rude:
                connection.abort()
            else:
                connection.close()
        self.connections.clear()
        self.current = None
        if self._waiting:
            self._dial()
