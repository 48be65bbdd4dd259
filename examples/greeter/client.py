"""A greeter client: ONE grpcio channel as `insecure_channel(target)` makes it. It counts who answered.

    python client.py --target greeter:50051 burst --calls 300
    python client.py --target greeter:50051 unary --rate 50 --duration 10
    python client.py --target greeter:50051 streams --count 60 --duration 5
    python client.py --target greeter:50051 mix --rate 50 --count 12 --duration 30
    python client.py --target greeter:50051 kinds

It prints the counts per server as plain lines, or with --json as one JSON object a line. The exit status is
1 if a call failed. Nothing in here knows of Evenstream.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Final

from greeter_session import ENDLESS, Counts, Session, call_count, call_rate, kinds, seconds, stream_count

DEFAULT_TIMEOUT_S: Final = 10.0
DEFAULT_REPORT_S: Final = 5.0


async def read_commands(session: Session) -> None:
    """Steer the session by the lines of standard input; its end is the session's end."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        try:
            session.steer(line.decode())
        except ValueError as error:
            print(f"client.py: {error}", file=sys.stderr, flush=True)
    session.stop()


async def report(counts: Counts, every: float, as_json: bool) -> None:
    while True:
        await asyncio.sleep(every)
        print(counts.as_json(final=False) if as_json else counts.as_line(), flush=True)


async def run(arguments: argparse.Namespace) -> Counts:
    if arguments.mode == "kinds":
        counts = Counts()
        await kinds(arguments.target, arguments.timeout, counts)
        return counts
    session = Session(
        rate=arguments.rate,
        calls=arguments.calls,
        streams=arguments.count,
        duration=arguments.duration,
        timeout=arguments.timeout,
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, session.stop)
    beside = []
    if arguments.report:
        beside.append(asyncio.create_task(report(session.counts, arguments.report, arguments.json)))
    if arguments.control:
        beside.append(asyncio.create_task(read_commands(session)))
    try:
        await session.run(arguments.target)
    finally:
        for task in beside:
            task.cancel()
    return session.counts


# What each mode does if not told otherwise. An option that a mode lacks here does not apply to it.
MODES: Final[dict[str, dict[str, float]]] = {
    "burst": {"calls": 300},
    "unary": {"rate": 10.0, "duration": ENDLESS},
    "streams": {"count": 12, "duration": ENDLESS},
    "mix": {"rate": 10.0, "count": 12, "duration": ENDLESS},
    "kinds": {},
}
# For what does not apply: a burst does not pause, streams alone make no calls, the end comes by itself.
ABSENT: Final[dict[str, float]] = {"calls": ENDLESS, "rate": ENDLESS, "count": 0, "duration": ENDLESS}
MODE_HELP: Final = (
    "burst: sequential unary calls, as fast as they finish; unary: sequential calls at a rate; streams: "
    "long-lived bidirectional streams; mix: both on the one channel; kinds: one call of each of the four"
)


def argument(parse: Callable[[str], float]) -> Callable[[str], float]:
    """`parse` for argparse, which shows the message of no other exception than its own."""

    def checked(text: str) -> float:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("mode", choices=MODES, help=MODE_HELP)
    parser.add_argument(
        "--target",
        default=os.environ.get("GREETER_TARGET", "127.0.0.1:50051"),
        metavar="HOST:PORT",
        help="(default: $GREETER_TARGET, else 127.0.0.1:50051)",
    )
    parser.add_argument("--calls", type=argument(call_count), help="how many calls (burst; default: 300)")
    parser.add_argument(
        "--rate", type=argument(call_rate), help="calls a second; inf: no pause (unary, mix; default: 10)"
    )
    parser.add_argument(
        "--count", type=argument(stream_count), help="how many streams (streams, mix; default: 12)"
    )
    parser.add_argument(
        "--duration",
        type=argument(seconds),
        metavar="SECONDS",
        help="(unary, streams, mix; default: endless)",
    )
    parser.add_argument(
        "--timeout",
        type=argument(seconds),
        default=DEFAULT_TIMEOUT_S,
        metavar="SECONDS",
        help="for one call, or for a stream's first reply (default: %(default)g)",
    )
    parser.add_argument(
        "--servers",
        type=int,
        default=0,
        metavar="N",
        help="how many servers there are, so that idle ones count in max/mean (default: those that answered)",
    )
    parser.add_argument(
        "--report",
        type=argument(seconds),
        metavar="SECONDS",
        help=f"print the counts this often; 0: only at the end (default: {DEFAULT_REPORT_S:g}, burst 0)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, one object a line")
    parser.add_argument(
        "--control",
        action="store_true",
        help="read commands from standard input: streams N, rate R, quit; its end means quit",
    )
    arguments = parser.parse_args(argv)
    defaults = MODES[arguments.mode]
    for option in ("calls", "rate", "count", "duration"):
        if getattr(arguments, option) is not None and option not in defaults:
            parser.error(f"--{option} does not apply to {arguments.mode}")
    if arguments.report is None:
        arguments.report = 0.0 if arguments.mode == "burst" else DEFAULT_REPORT_S
    if arguments.mode == "streams":
        arguments.rate = 0.0
    for option, value in {**ABSENT, **defaults}.items():
        if getattr(arguments, option) is None:
            setattr(arguments, option, value)
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    counts = asyncio.run(run(arguments))
    if arguments.json:
        print(counts.as_json(final=True), flush=True)
    else:
        print("\n".join(counts.summary(arguments.servers)), flush=True)
    return 1 if counts.failed else 0


if __name__ == "__main__":
    sys.exit(main())
