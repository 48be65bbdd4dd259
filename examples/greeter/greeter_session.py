"""What the greeter client does on its one channel, and the counts of which server answered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from typing import Final, TypeVar, cast

import greeter_pb2 as pb
import greeter_pb2_grpc as pb_grpc
import grpc

T = TypeVar("T")

BEAT_S: Final = 0.5  # an open chat says something this often
# After a failure: slow enough not to flood a server that is down, fast enough to notice when it is back.
PAUSE_AFTER_FAILURE_S: Final = 0.2
# grpc.aio's own words for a write that failed, where the server's belong, and how long to wait for those.
STATUS_LOST: Final = "Internal error from Core"
STATUS_SECONDS: Final = 1.0
# A person would have meant something else.
MAX_STREAMS: Final = 10_000
MAX_CALLS: Final = 10_000_000
ENDLESS: Final = float("inf")


class Counts:
    """What happened so far. Times are of the system's monotonic clock, so that other programs can compare."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()  # finished unary calls, by server
        self.open: Counter[str] = Counter()  # chats open now, by server
        self.opened: Counter[str] = Counter()  # chats opened so far, by server
        self.ended_by_server = 0  # chats that a server ended with OK
        self.messages = 0  # replies in chats
        self.errors: Counter[str] = Counter()
        self.first_reply: dict[str, float] = {}

    @property
    def failed(self) -> int:
        return sum(self.errors.values())

    def answered(self, server: str) -> None:
        self.first_reply.setdefault(server, time.monotonic())

    def fail(self, error: BaseException) -> None:
        if isinstance(error, grpc.RpcError):
            self.errors[f"{error.code().name}: {error.details()}"] += 1
        else:
            self.errors[f"{type(error).__name__}: {error}"] += 1

    def as_json(self, final: bool) -> str:
        return json.dumps(
            {
                "at": time.monotonic(),
                "final": final,
                "calls": dict(sorted(self.calls.items())),
                "open": dict(sorted(self.open.items())),
                "opened": dict(sorted(self.opened.items())),
                "ended_by_server": self.ended_by_server,
                "messages": self.messages,
                "failed": self.failed,
                "errors": dict(self.errors),
                "first_reply": self.first_reply,
            }
        )

    def as_line(self) -> str:
        calls = ", ".join(f"{server} {count}" for server, count in sorted(self.calls.items()))
        line = f"calls: {calls or 'none'}"
        if self.open:
            line += "; open: " + ", ".join(f"{server} {count}" for server, count in sorted(self.open.items()))
        return f"{line}; failed: {self.failed}"

    def summary(self, servers: int) -> list[str]:
        """Lines for people. `servers` is how many there are, idle ones too; 0: as many as answered."""
        names = sorted({*self.calls, *self.open, *self.opened})
        width = max([len("total"), *map(len, names)])
        lines = [
            f"{name:<{width}} {self.calls[name]:>7} calls {self.open[name]:>5} streams" for name in names
        ]
        calls, streams = sum(self.calls.values()), sum(self.open.values())
        total = f"{'total':<{width}} {calls:>7} calls {streams:>5} streams  {self.failed} failed"
        of = f" of {servers}" if servers else ""
        total += f"  {len(names)}{of} servers"
        if calls:
            total += f"  calls max/mean {max_over_mean(self.calls, servers):.2f}"
        if streams:
            total += f"  streams max/mean {max_over_mean(self.open, servers):.2f}"
        return [*lines, total, *(f"error: {text} ({count} times)" for text, count in self.errors.items())]


def max_over_mean(counts: Counter[str], servers: int) -> float:
    """1.00 is even. Mean over `servers`, or over those that answered if that is more."""
    total = sum(counts.values())
    return max(counts.values()) / (total / max(servers, len(counts))) if total else 0.0


@contextlib.contextmanager
def _status_cancelled() -> Iterator[None]:
    """A stream that ended with CANCELLED raises ConnectionError: grpc.aio raises what a cancelled task gets."""
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise ConnectionError("the stream was CANCELLED") from None


def _at_once(ready: Coroutine[object, None, T]) -> T:
    """The result of a coroutine that has nothing to wait for."""
    try:
        ready.send(None)
    except StopIteration as done:
        return cast(T, done.value)
    ready.close()
    raise RuntimeError("it waits for something")


class Chat:
    """One long-lived bidirectional stream."""

    def __init__(self, stub: pb_grpc.GreeterStub, counts: Counts, ended: asyncio.Event) -> None:
        self._call = stub.Chat()
        self._counts = counts
        self._ended = ended
        self._closing = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._first: tuple[grpc.StatusCode, str] | None = None
        self._call.add_done_callback(self._ended_with)
        self.server = ""
        self.over = False

    def _ended_with(self, _: object) -> None:
        """Keep the status that came first: both are there now, so that nothing is waited for."""
        self._first = _at_once(self._call.code()), _at_once(self._call.details())

    async def _status(self) -> tuple[grpc.StatusCode, str]:
        """What the server said. A write that fails as the stream ends makes grpc.aio put a status of its own in that
        one's place (github.com/grpc/grpc/issues/36066), as a rule after it and now and then before."""
        if self._first is not None and self._first[1] != STATUS_LOST:
            return self._first
        until = time.monotonic() + STATUS_SECONDS
        while (details := await self._call.details()) == STATUS_LOST and time.monotonic() < until:
            await asyncio.sleep(0.01)
        return await self._call.code(), details

    async def open(self, timeout: float) -> None:
        """Return when the server's first reply is in.

        Raises grpc.RpcError, TimeoutError, or ConnectionError if it ended with OK before any reply.
        """
        try:
            reply = await asyncio.wait_for(self._read(), timeout)
        except BaseException:
            self._call.cancel()
            raise
        if reply is grpc.aio.EOF:
            raise ConnectionError("the chat ended before its first reply")
        self.server = reply.server
        self._counts.answered(self.server)
        self._counts.open[self.server] += 1
        self._counts.opened[self.server] += 1
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._speak())]

    async def _read(self) -> pb.HelloReply | grpc.aio.EOF:
        with _status_cancelled():
            return await self._call.read()

    async def _listen(self) -> None:
        try:
            with contextlib.suppress(grpc.RpcError):  # its status is looked at below
                while await self._read() is not grpc.aio.EOF:
                    self._counts.messages += 1
            code, details = await self._status()
            if code is not grpc.StatusCode.OK:
                self._counts.errors[f"{code.name}: {details}"] += 1
            elif not self._closing.is_set():
                self._counts.ended_by_server += 1
        except ConnectionError as error:
            self._counts.fail(error)
        finally:
            self.over = True
            if not self._closing.is_set():
                self._forget()
            self._ended.set()

    def _forget(self) -> None:
        self._counts.open[self.server] -= 1
        if not self._counts.open[self.server]:
            del self._counts.open[self.server]

    async def _speak(self) -> None:
        try:
            while not self.over and not self._closing.is_set():
                with _status_cancelled():
                    await self._call.write(pb.HelloRequest(name="chat"))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), BEAT_S)
        except (grpc.RpcError, ConnectionError, asyncio.InvalidStateError):
            return  # the stream has ended; _listen says how

    async def close(self, timeout: float) -> None:
        """Say no more, and see the server end it with OK."""
        self._closing.set()
        if not self.over:
            self._forget()
        listen, speak = self._tasks
        try:
            # To its end: grpc cancels the whole call if a task is cancelled in the middle of a write.
            await asyncio.wait_for(speak, timeout)
            with _status_cancelled():
                await self._call.done_writing()
            await asyncio.wait_for(listen, timeout)
        except (grpc.RpcError, ConnectionError, asyncio.InvalidStateError):
            pass  # ended meanwhile; counted by _listen
        except TimeoutError as error:
            self._counts.fail(error)
            self._call.cancel()


class Session:
    """One channel; unary calls one after another at a rate, and between them chats are opened, one at a
    time, until as many are open as wanted. So at any moment at most one thing is being started, and what
    is counted shows the balancer's choice and not a race between two of the client's tasks."""

    def __init__(
        self, *, rate: float, calls: float, streams: int, duration: float, timeout: float = 10.0
    ) -> None:
        """`rate`: calls a second, 0 for none, infinity for as fast as they finish. Ends after `calls` unary
        calls if `streams` is 0, and in any case after `duration` seconds. `timeout` (seconds) holds for one
        call and for a stream's first reply."""
        self.counts = Counts()
        self.rate = rate
        self.calls_left = calls
        self.streams = streams
        self._timeout = timeout
        self._until = time.monotonic() + duration
        self._chats: list[Chat] = []
        self._wake = asyncio.Event()  # something changed: a chat ended, a command came, the end
        self._stopping = False
        self._stub: pb_grpc.GreeterStub

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()

    def steer(self, command: str) -> None:
        """`streams N`, `rate R` or `quit`. Raises ValueError for anything else."""
        word, _, value = command.strip().partition(" ")
        if word == "quit" and not value:
            self.stop()
        elif word == "streams":
            self.streams = stream_count(value)
        elif word == "rate":
            self.rate = call_rate(value)
        else:
            raise ValueError(f"{command.strip()!r} is not a command; allowed: streams N, rate R, quit")
        self._wake.set()

    async def run(self, target: str) -> None:
        async with grpc.aio.insecure_channel(target) as channel:
            self._stub = pb_grpc.GreeterStub(channel)
            due = time.monotonic()
            while not self._finished():
                self._wake.clear()
                if await self._adjust_streams():
                    continue
                if not (self.rate and self.calls_left):
                    await self._sleep_until(self._until)
                    due = time.monotonic()
                elif time.monotonic() < due:
                    await self._sleep_until(due)
                else:
                    # Lost time is not made up for: a burst after a pause would not be the rate asked for.
                    due = max(due + 1 / self.rate, time.monotonic() - 1 / self.rate)
                    await self._call_once()
            held = self.counts.open.copy()  # what is worth telling is what was open, not that it was closed
            await asyncio.gather(*(chat.close(self._timeout) for chat in self._chats))
            self.counts.open = held

    def _finished(self) -> bool:
        done = self.calls_left <= 0 and not self.streams
        return self._stopping or done or time.monotonic() >= self._until

    async def _sleep_until(self, due: float) -> None:
        """Return at `due`, at the end or when woken, whichever is first."""
        seconds = min(due, self._until) - time.monotonic()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), None if seconds == ENDLESS else max(seconds, 0.0))

    async def _call_once(self) -> None:
        self.calls_left -= 1
        try:
            reply = await self._stub.SayHello(pb.HelloRequest(name="world"), timeout=self._timeout)
        except grpc.RpcError as error:
            self.counts.fail(error)
            await asyncio.sleep(PAUSE_AFTER_FAILURE_S)
        else:
            self.counts.calls[reply.server] += 1
            self.counts.answered(reply.server)

    async def _adjust_streams(self) -> bool:
        """Open or close one chat if there are too few or too many; whether there was anything to do."""
        self._chats = [chat for chat in self._chats if not chat.over]
        if len(self._chats) > self.streams:
            await self._chats.pop().close(self._timeout)
            return True
        if len(self._chats) == self.streams:
            return False
        chat = Chat(self._stub, self.counts, self._wake)
        try:
            await chat.open(self._timeout)
        except (grpc.RpcError, TimeoutError, ConnectionError) as error:
            self.counts.fail(error)
            await asyncio.sleep(PAUSE_AFTER_FAILURE_S)
        else:
            self._chats.append(chat)
        return True


async def kinds(target: str, timeout: float, counts: Counts) -> None:
    """One call of each of the four kinds; a wrong answer counts as a failure as an error does."""
    names = ["Ada", "Grace", "Barbara"]
    requests = [pb.HelloRequest(name=name) for name in names]
    async with grpc.aio.insecure_channel(target) as channel:
        stub = pb_grpc.GreeterStub(channel)

        async def unary() -> list[pb.HelloReply]:
            return [await stub.SayHello(requests[0], timeout=timeout)]

        async def server_streaming() -> list[pb.HelloReply]:
            return [
                reply
                async for reply in stub.SayHellos(pb.HellosRequest(name="Ada", count=3), timeout=timeout)
            ]

        async def client_streaming() -> list[pb.HelloReply]:
            return [await stub.GatherHellos(iter(requests), timeout=timeout)]

        async def bidirectional() -> list[pb.HelloReply]:
            return [reply async for reply in stub.Chat(iter(requests), timeout=timeout)]

        expected = {
            unary: [1],
            server_streaming: [1, 2, 3],
            client_streaming: [3],
            bidirectional: [0, 1, 2, 3],
        }
        for call, numbers in expected.items():
            try:
                replies = await call()
            except grpc.RpcError as error:
                counts.fail(error)
                continue
            if [reply.number for reply in replies] != numbers or len(
                {reply.server for reply in replies}
            ) != 1:
                counts.fail(ValueError(f"{call.__name__}: wrong replies: {replies}"))
            else:
                counts.calls[replies[0].server] += 1
                counts.answered(replies[0].server)


def _number(text: str, allowed: str, low: float, high: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not low <= number <= high:
        raise ValueError(f"{text!r} is not allowed; allowed: {allowed}")
    return number


def call_rate(text: str) -> float:
    """Calls a second. This and the three below raise ValueError that says what is allowed."""
    return _number(text, "0 or more calls a second, or inf", 0.0, ENDLESS)


def seconds(text: str) -> float:
    return _number(text, "0 or more seconds, or inf", 0.0, ENDLESS)


def call_count(text: str) -> int:
    return int(_number(text, f"1 to {MAX_CALLS} calls", 1, MAX_CALLS))


def stream_count(text: str) -> int:
    return int(_number(text, f"0 to {MAX_STREAMS} streams", 0, MAX_STREAMS))
