"""Backends: pods that serve calls as their scripts say, and that come, drain, crash, freeze and vanish."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NamedTuple

import hpack
import rawhttp2 as wire

from sidecar.splice.backend import MAX_CONNECTIONS
from simulator import calls
from simulator.calls import Arrival, Call
from simulator.http2 import Fields, Side, Stream
from simulator.network import End, Weather

if TYPE_CHECKING:
    from simulator.world import World

REFUSED = "refused"
DRAIN_PING = b"draining"
LAST_STREAM = 0x7FFFFFFF
GRACE = 8.0  # seconds from SIGTERM to SIGKILL
SLOW = 1.0  # SETTINGS later than this: calls may have stopped waiting


class Manner(NamedTuple):
    """How a backend's server is."""

    initial_window: int = 65_535
    window: int = 65_535
    max_streams: int | None = None
    settings_delay: float = 0.0  # from accept to its SETTINGS
    leaving: str = "graceful"  # at SIGTERM: graceful (two GOAWAYs), one-step, or rude (the sockets close)
    encoder: str = "stateless"  # as is table: one that has obeyed; or plain: one that never had a table
    pads: bool = False
    weather: Weather = Weather()


class Handling:
    """One call being served."""

    def __init__(self, arrival: Arrival) -> None:
        self.arrival = arrival
        self.next_message = 0
        self.busy = False
        self.answered = False


class ServerConnection(Side):
    def __init__(self, pod: Pod, end: End, rng: random.Random) -> None:
        manner = pod.manner
        self.pod = pod
        self.last_begun = 0
        self.goaway_last = LAST_STREAM  # of the last GOAWAY sent
        self.leaving = False
        self.told = False
        self._encoder = hpack.Encoder()
        self._first_block = True
        settings = {wire.INITIAL_WINDOW_SIZE: manner.initial_window}
        if manner.max_streams is not None:
            settings[wire.MAX_CONCURRENT_STREAMS] = manner.max_streams
        name = f"{pod.host} {end.name}"
        super().__init__(pod.world.clock, end, name, False, settings, manner.window, rng, manner.pads)
        if manner.settings_delay:
            end.owner = None
            self.clock.after(manner.settings_delay, self._begin)
        else:
            self.flush()

    def _begin(self) -> None:
        if not self.closed:
            self.end.owner = self._look
            self.flush()
            self._look(self.end)

    @property
    def sidecar(self) -> str:
        return self.end.link.name.partition(">")[0]

    # --- calls come ------------------------------------------------------------------------------

    def headers(self, stream: Stream, fields: Fields, end: bool) -> None:
        if stream.handling is not None or stream.call is not None:
            self.pod.world.violated("http2", f"{self.name}: trailers in a request")
        world = self.pod.world
        found = dict(fields)
        call = world.calls[int(found["x-call"])]
        if len(found.get("x-blob", "")) != call.script.metadata:
            world.violated("bytes", f"{call}: the metadata is not as it was sent")
        stream.call = call
        arrival = Arrival(self.sidecar, self.pod.host, self.clock.now)
        world.log("%s takes %s as stream %d", self.name, call, stream.number)
        refused = sum(1 for a in call.arrivals if a.unprocessed == REFUSED)
        if stream.number > self.goaway_last:
            arrival.unprocessed = "above GOAWAY's last stream"
            self._ignore(stream)
        elif refused < call.script.refusals or self.pod.refusing > self.clock.now:
            arrival.unprocessed = REFUSED
            world.count("streams refused by backends")
            self.reset(stream, wire.REFUSED_STREAM)
        world.arrived(call, arrival)
        if arrival.unprocessed:
            return
        self.last_begun = max(self.last_begun, stream.number)
        self.pod.served += 1
        stream.handling = Handling(arrival)
        script = call.script
        if script.server_stall:
            self.stall(stream, script.server_stall)
        if end:
            self._request_ended(stream)
        if script.manner == calls.TRAILERS_ONLY:
            self.clock.after(script.think, lambda: self._trailers_only(stream))
        elif script.manner == calls.RESET_FIRST:
            self.clock.after(script.think, lambda: self._reset_now(stream))
        elif script.kind == "bidi" or script.manner in (calls.EARLY, calls.EARLY_RESET):
            self._answer_soon(stream)

    def _ignore(self, stream: Stream) -> None:
        """No answer ever, and no fault: the client was told."""
        del self.streams[stream.number]
        self.buried[stream.number] = "reset here"

    def data(self, stream: Stream, payload: bytes, end: bool) -> None:
        handling: Handling | None = stream.handling
        if handling is None:
            return
        call: Call = stream.call
        arrival = handling.arrival
        at = arrival.request_received
        if payload != call.request[at : at + len(payload)]:
            self.pod.world.violated("bytes", f"{call}: the request differs at {at}")
        arrival.request_received += len(payload)
        if end:
            self._request_ended(stream)
        elif call.script.kind == "bidi" and not handling.busy:
            self._answer_soon(stream)

    def _request_ended(self, stream: Stream) -> None:
        call: Call = stream.call
        arrival = stream.handling.arrival
        arrival.request_ended = True
        if arrival.request_received != len(call.request):
            self.pod.world.violated(
                "bytes",
                f"{call}: the request ended at {arrival.request_received} of {len(call.request)} octets",
            )
        if not stream.handling.busy:
            self._answer_soon(stream)

    # --- calls are answered ----------------------------------------------------------------------

    def _answer_soon(self, stream: Stream) -> None:
        stream.handling.busy = True
        think = stream.call.script.think
        if think:
            self.clock.after(think, lambda: self._answer(stream))
        else:
            self._answer(stream)

    def _alive(self, stream: Stream) -> bool:
        return not self.closed and not stream.reset and stream.number in self.streams and stream.end is None

    def _answer(self, stream: Stream) -> None:
        """The next message, if its time has come, or the end."""
        handling: Handling = stream.handling
        handling.busy = False
        if not self._alive(stream):
            return
        if self.frozen:
            handling.busy = True
            self.clock.after(0.1, lambda: self._answer(stream))
            return
        script = stream.call.script
        if script.manner in (calls.TRAILERS_ONLY, calls.RESET_FIRST):
            return
        early = script.manner in (calls.EARLY, calls.EARLY_RESET)
        if script.kind == "bidi" and not early:
            self._converse(stream)
        elif handling.arrival.request_ended or early:
            self._recite(stream)
        self.flush()

    def _converse(self, stream: Stream) -> None:
        script, handling = stream.call.script, stream.handling
        at = handling.next_message
        self._head(stream)
        if at < len(script.response) and handling.arrival.request_received >= sum(script.request[: at + 1]):
            self._message(stream)
            if self._alive(stream):
                self._answer_soon(stream)
        elif at >= len(script.response) and handling.arrival.request_ended:
            self._finish(stream)

    def _recite(self, stream: Stream) -> None:
        script, handling = stream.call.script, stream.handling
        self._head(stream)
        if handling.next_message < len(script.response):
            self._message(stream)
            if not self._alive(stream):
                return
        if handling.next_message < len(script.response):
            self._answer_soon(stream)
        else:
            self._finish(stream)

    def _head(self, stream: Stream) -> None:
        handling: Handling = stream.handling
        if handling.answered:
            return
        handling.answered = True
        script = stream.call.script
        for _ in range(script.hints):
            self.write(wire.headers(stream.number, self._encode(((":status", "103"),))))
        kind = "application/grpc" if script.grpc else "application/json"
        fields = [(":status", "200"), ("content-type", kind)]
        if script.sized:
            fields.append(("content-length", str(len(stream.call.response))))
        self.write(wire.headers(stream.number, self._encode(tuple(fields))))

    def _message(self, stream: Stream) -> None:
        call: Call = stream.call
        handling: Handling = stream.handling
        at = handling.next_message
        sizes = call.script.response
        if call.script.manner == calls.RESET and at >= len(sizes) // 2:
            self._reset_now(stream)
            return
        start = sum(sizes[:at])
        handling.next_message += 1
        handling.arrival.response_sent += sizes[at]
        self.send(stream, call.response[start : start + sizes[at]])

    def _finish(self, stream: Stream) -> None:
        call: Call = stream.call
        arrival: Arrival = stream.handling.arrival
        arrival.completed = True
        arrival.status = call.script.status if call.script.grpc else 200
        if call.script.grpc:
            trailers = [("grpc-status", str(call.script.status)), ("grpc-message", "as told")]
            if call.script.metadata:
                trailers.append(("x-blob", "b" * call.script.metadata))
            self.send(stream, b"", self._encode(tuple(trailers)))
        else:
            self.send(stream, b"", b"")
        if call.script.manner == calls.EARLY_RESET and stream.sent_end and not stream.got_end:
            self.reset(stream, wire.NO_ERROR)

    def _reset_now(self, stream: Stream) -> None:
        if self._alive(stream):
            stream.handling.arrival.reset_code = stream.call.script.code
            self.reset(stream, stream.call.script.code)
            self.flush()

    def _trailers_only(self, stream: Stream) -> None:
        if not self._alive(stream) or stream.handling.answered:
            return
        arrival: Arrival = stream.handling.arrival
        stream.handling.answered = True
        arrival.completed = True
        arrival.status = stream.call.script.status
        fields = (
            (":status", "200"),
            ("content-type", "application/grpc"),
            ("grpc-status", str(arrival.status)),
        )
        stream.end = self._encode(fields)
        self._pump(stream)
        self.flush()

    def _encode(self, fields: Fields) -> bytes:
        if self.pod.manner.encoder == "table":
            return self._encoder.encode(fields, huffman=sum(len(v) for _, v in fields) < 1000)
        block = wire.literal(fields)
        if self._first_block and self.pod.manner.encoder == "stateless":
            block = b"\x20" + block
        self._first_block = False
        return block

    def ready(self) -> None:
        self._encoder.header_table_size = 0  # as the sidecar's SETTINGS want it

    # --- calls end, connections end --------------------------------------------------------------

    def was_reset(self, stream: Stream, code: int) -> None:
        if stream.handling is not None:
            stream.handling.arrival.reset_seen = code

    def released(self, stream: Stream) -> None:
        self._leave_if_idle()

    def drain(self, steps: int) -> None:
        """GOAWAY; in two steps the last stream is named once the client has answered a PING."""
        if self.told or self.closed:
            return
        self.told = True
        if steps == 2:
            self.write(wire.goaway(LAST_STREAM))
            self.write(wire.ping(DRAIN_PING))
        else:
            self._last_word()
        self.flush()
        self._leave_if_idle()

    def pong(self, payload: bytes) -> None:
        if payload == DRAIN_PING:
            self._last_word()

    def _last_word(self) -> None:
        self.goaway_last = self.last_begun
        self.leaving = True
        self.write(wire.goaway(self.goaway_last))
        self.clock.after(0.0, self._leave_if_idle)

    def _leave_if_idle(self) -> None:
        if self.leaving and not self.closed and not self.streams and not self._out:
            self.close()
            self.pod.connections.pop(self, None)
        elif self.leaving and not self.closed and self._out:
            self.clock.after(0.05, self._leave_if_idle)

    def goaway(self, last: int) -> None:
        """The sidecar is about to close."""

    def cut(self) -> None:
        """The connection has ended: what was on it has too."""
        for stream in self.streams.values():
            if stream.handling is not None:
                stream.handling.arrival.cut = True

    def lost(self, why: str) -> None:
        self.cut()
        self.pod.connections.pop(self, None)


class Pod:
    """One backend: an address, a server, and what happens to it."""

    def __init__(self, world: World, host: str, service: str, manner: Manner) -> None:
        self.world = world
        self.host = host
        self.service = service
        self.manner = manner
        self.address = f"{host}:50051"
        self.up = False
        self.draining = False
        self.vanished = False
        self.served = 0
        self.healthy_since = float("inf")
        self.started_at = float("inf")
        self.refusing = -1.0  # until when it refuses every stream
        self.resetting = -1.0  # until when it resets every connection
        self.silent = -1.0  # until when it accepts and says nothing
        self.frozen_until = -1.0
        self.limited = False  # its limit of streams was changed
        self.connections: dict[ServerConnection, None] = {}
        self.life = 0  # counts starts, so that a timer of a former life does nothing
        self._accepted = 0

    def start(self) -> None:
        if self.up:
            return
        self.up, self.draining, self.vanished = True, False, False
        self.life += 1
        self.started_at = self.world.clock.now
        self.refusing = self.resetting = self.silent = self.frozen_until = -1.0  # that was another process
        self.world.network.absent.pop(self.address, None)
        self.world.network.listeners[self.address] = self._accept
        self.recovered()

    def recovered(self) -> None:
        self.healthy_since = self.world.clock.now

    def _accept(self, end: End) -> None:
        now = self.world.clock.now
        if self.resetting > now:
            end.abort()
            return
        if end.closed or end.error:
            return
        if self.frozen_until > now:
            self.world.clock.at(self.frozen_until, lambda: self._accept(end))
            return
        self._accepted += 1
        if self.silent > now:
            return  # it stays in the backlog of a program that has hung
        connection = ServerConnection(
            self, end, random.Random(f"{self.world.seed}/{end.name}/{self._accepted}")
        )
        self.connections[connection] = None

    def _stop_listening(self) -> None:
        self.world.network.listeners.pop(self.address, None)
        self.healthy_since = float("inf")

    def terminate(self) -> None:
        """SIGTERM."""
        if not self.up or self.draining:
            return
        self.draining = True
        self._stop_listening()
        manner = self.manner.leaving
        if manner == "rude":
            for connection in list(self.connections):
                self._die(connection, "closed", rude=False)
            self.up = False
            return
        for connection in list(self.connections):
            connection.drain(2 if manner == "graceful" else 1)
        life = self.life
        self.world.clock.after(GRACE, lambda: self._kill_if(life))

    def _kill_if(self, life: int) -> None:
        if self.life == life and self.draining:
            self.crash()

    def crash(self) -> None:
        """SIGKILL: the kernel resets what is open."""
        if not self.up:
            return
        self.up = False
        self._stop_listening()
        for connection in list(self.connections):
            self._die(connection, "crashed", rude=True)

    def _die(self, connection: ServerConnection, why: str, rude: bool) -> None:
        self.world.died(connection.sidecar, self.host, why)
        connection.cut()
        if rude:
            connection.abort()
        else:
            connection.close()
        self.connections.pop(connection, None)

    def vanish(self) -> None:
        """The node is gone: no FIN, no RST, no answer."""
        if not self.up:
            return
        self.up, self.vanished = False, True
        self._stop_listening()
        self.world.network.absent[self.address] = None
        for link in self.world.network.between("sidecar", self.address):
            self.world.died(link.name.partition(">")[0], self.host, "vanished")
            link.vanish()
        for connection in self.connections:
            connection.closed = True
            connection.cut()
        self.connections.clear()

    def freeze(self, seconds: float) -> None:
        """The process stands still; the kernel still takes bytes."""
        if not self.up:
            return
        self.healthy_since = float("inf")
        self.frozen_until = self.world.clock.now + seconds
        frozen = list(self.connections)
        for connection in frozen:
            connection.frozen = True
        life = self.life

        def thaw() -> None:
            for connection in frozen:
                if not connection.closed:
                    connection.thaw()
            if self.life == life and self.up and not self.draining:
                self.recovered()

        self.world.clock.after(seconds, thaw)

    def age(self) -> None:
        """The connections have reached their greatest age (grpc-go's MaxConnectionAge)."""
        for connection in list(self.connections):
            connection.drain(2)
        if self.healthy_since != float("inf"):
            self.recovered()

    def is_plain(self) -> bool:
        """Nothing has happened to it since it started, and it has room for everybody."""
        plain = self.manner.max_streams is None and self.manner.settings_delay == 0.0 and not self.limited
        return plain and self.healthy_since == self.started_at

    def is_scarce(self) -> bool:
        """It may be that not all calls that want it can have it."""
        most = self.manner.max_streams
        scarce = most is not None and most * MAX_CONNECTIONS < self.world.most_open
        return scarce or self.limited or self.manner.settings_delay > SLOW

    def is_slow_to_grow(self) -> bool:
        """One more connection, for streams beyond its limit, takes a while."""
        return self.manner.max_streams is not None and self.manner.settings_delay > 0.0

    def disturbed(self) -> None:
        """Something happened to one of its connections: it counts as healthy from now."""
        if self.healthy_since != float("inf"):
            self.recovered()
