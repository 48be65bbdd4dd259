"""How the programs in a pod and in the cluster take their flags: a mistake is one line and exit code 2."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, Final, NoReturn

from contract.values import BadValueError

EXIT_USAGE: Final = 2


class OneLineParser(argparse.ArgumentParser):
    """Without the usage that argparse prints ahead of a mistake: in a container's log it hides the line."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\n")


def argument_type(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """A parser of `values` as argparse's `type`.

    argparse prints only ArgumentTypeError's own text; BadValueError already says what is allowed.
    """

    def convert(text: str) -> Any:
        try:
            return parse(text)
        except BadValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not allowed; {error}") from None

    return convert
