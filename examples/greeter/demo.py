"""Evenstream without a cluster: real grpcio servers, one unmodified grpcio client, first direct, then
through the sidecar, then while servers join and leave. Takes about 25 seconds.

The exit status is 0 if it was even and no call failed, 1 if not.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from demolib.conclusion import conclude
from demolib.processes import DemoError
from demolib.screen import Screen, choose
from demolib.signals import Stop
from demolib.story import NAMES, QUICK, WATCH, Story, default_sidecar


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer calls and no pauses to look (about 8 s)")
    parser.add_argument("--plain", action="store_true", help="plain lines even on a terminal")
    parser.add_argument(
        "--sidecar",
        type=shlex.split,
        default=default_sidecar(),
        metavar="COMMAND",
        help="the sidecar's command; --source, --listen and --admin are added (default: python -m sidecar)",
    )
    return parser.parse_args(argv)


async def run(arguments: argparse.Namespace, screen: Screen, directory: Path) -> int:
    """The whole demo; the exit status. A signal ends it early: 128 and the signal's number."""
    stop = Stop()
    story = Story(screen, directory, QUICK if arguments.quick else WATCH, arguments.sidecar)
    width = shutil.get_terminal_size((100, 24)).columns
    try:
        await story.run()
        return conclude(screen, story.outcome(), NAMES, width)
    except asyncio.CancelledError:
        screen.lines(["", f"stopped by {stop.name}" if stop.name else "stopped"])
        return stop.status or 1
    except DemoError as error:
        return conclude(screen, story.outcome(), NAMES, width, f"demo.py: {error}")
    finally:
        await story.close()


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    screen = choose(sys.stdout, os.environ, arguments.plain)
    try:
        with tempfile.TemporaryDirectory(prefix="evenstream-demo-") as directory:
            return asyncio.run(run(arguments, screen, Path(directory)))
    except DemoError as error:  # not even addresses to run on
        print(f"demo.py: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # nobody reads any more, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    finally:
        screen.close()


if __name__ == "__main__":
    sys.exit(main())
