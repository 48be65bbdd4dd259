"""`python -m sidecar`: flags and environment to settings, logging, exit codes.

Exit codes: 0 after a clean end; 1 if a port cannot be had; 2 for a bad flag, value or environment.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from contract import logs, names
from contract import settings as table
from contract.arguments import EXIT_USAGE, OneLineParser
from contract.settings import BadSettingError
from sidecar import BUILD_ENV

EXIT_OK: Final = 0
EXIT_PORT: Final = 1

EPILOG: Final = """\
Each flag can be given as the environment variable in brackets; a flag beats it.

In a pod the injector writes all of this. To try it on your own machine, with endpoints from a file:

  kubectl get services,endpointslices -o json > endpoints.json
  python -m sidecar --source file:endpoints.json --listen 127.0.0.1:7000=greeter.default:50051

and let the application dial 127.0.0.1:7000. http://127.0.0.1:15020/ shows where its streams go.

SIGTERM drains: it ends when the open streams are over, or after --drain-timeout. A second signal ends at once.
Exit codes: 0 after a clean end; 1 if a port cannot be had; 2 for a bad flag, value or environment.
EVENSTREAM_BUILD=interpreted runs the Python files as they stand instead of the compiled modules.
"""


class _Parser(OneLineParser):
    def error(self, message: str) -> NoReturn:
        """With the name that its log and its other errors have."""
        self.exit(EXIT_USAGE, f"evenstream-sidecar: {message}; see python -m sidecar --help\n")


def parser() -> argparse.ArgumentParser:
    """Flags straight from the settings table."""
    found = _Parser(
        prog="python -m sidecar",
        description="Spreads the gRPC streams of one pod evenly over the endpoints of the Services it calls.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for setting in table.sidecar_settings():
        default = f" Default: {setting.default}." if setting.default else ""
        found.add_argument(
            setting.flag,
            dest=setting.name,
            action="append",
            metavar=setting.form,
            help=f"{setting.help}{default} [{setting.env}]".replace("%", "%%"),
        )
    return found


def read_settings(arguments: Sequence[str]) -> dict[str, Any]:
    """Exits with EXIT_USAGE and one line for what is not allowed."""
    options = parser()
    flags = {name: given for name, given in vars(options.parse_args(arguments)).items() if given}
    for setting in table.sidecar_settings():
        if len(flags.get(setting.name, ())) > 1 and not setting.repeatable:
            options.error(f"{setting.flag} is given {len(flags[setting.name])} times; allowed: once")
    try:
        return table.from_flags_and_environment(flags, os.environ)
    except BadSettingError as error:
        options.error(str(error))


def _build_trouble(wanted: str, kind: str) -> str:
    """Why the build asked for by EVENSTREAM_BUILD does not run, or ""."""
    if wanted not in ("", "compiled", "interpreted"):
        return f"{BUILD_ENV}: {wanted!r} is not allowed; allowed: compiled, interpreted, or unset"
    if wanted == "compiled" != kind:
        return (
            f"{BUILD_ENV}: 'compiled' is not to be had: this installation was built with EVENSTREAM_COMPILE=0"
        )
    return ""


def _leave(*_signal_and_frame: object) -> NoReturn:
    raise SystemExit(EXIT_OK)


def main(arguments: Sequence[str]) -> int:
    # Until the loop takes signals: process 1 of a container is not ended by one that has no handler.
    signal.signal(signal.SIGTERM, _leave)
    settings = read_settings(arguments)
    logs.configure(settings["log-level"], settings["log-format"])
    # Imported late: --help and a mistyped flag answer at once.
    from sidecar.app import Sidecar
    from sidecar.discovery.source import NoSourceError
    from sidecar.net.sockets import PortInUseError
    from sidecar.view import build_kind

    log = logging.getLogger("sidecar")
    trouble = _build_trouble(os.environ.get(BUILD_ENV, ""), build_kind())
    if trouble:
        sys.stderr.write(f"evenstream-sidecar: {trouble}\n")
        return EXIT_USAGE
    try:
        sidecar = Sidecar(settings, os.environ)
    except PortInUseError as error:
        sys.stderr.write(f"evenstream-sidecar: {error}\n")
        return EXIT_PORT
    except NoSourceError as error:
        sys.stderr.write(f"evenstream-sidecar: {error}\n")
        return EXIT_USAGE
    listens = ", ".join(str(each) for each in settings["listen"]) or "none"
    log.info(
        "evenstream sidecar %s (%s), source %s, listeners %s, capture %s, admin %s",
        names.VERSION,
        build_kind(),
        settings["source"],
        listens,
        settings["capture"] or "off",
        settings["admin"],
    )
    unknown = table.unknown_variables(os.environ, [BUILD_ENV])
    if unknown:
        log.warning("not known to this version, so without effect: %s", ", ".join(unknown))
    # What was made until here lives to the end: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    sidecar.run()
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
