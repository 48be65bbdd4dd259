"""What several commands share: their shape of help, and their options."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

import click

from contract import names, settings, values
from injector.cli import codes

F = TypeVar("F", bound=Callable[..., Any])

IMAGE_VARIABLE: Final = names.ENV_PREFIX + "SIDECAR_IMAGE"


class Command(click.Command):
    """Ends its help with examples, and with the exit codes it can give."""

    def __init__(
        self,
        *args: Any,
        examples: Iterable[tuple[str, str]] = (),
        exits: Iterable[int] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)
        self.exits = tuple(exits)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.examples:
            with formatter.section("Examples"):
                for line, text in self.examples:
                    formatter.write_text(f"# {text}")
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
        if self.exits:
            write_exit_codes(formatter, {code: codes.MEANING[code] for code in self.exits})


def write_exit_codes(formatter: click.HelpFormatter, meaning: Mapping[int, str]) -> None:
    with formatter.section("Exit codes"):
        formatter.write_dl([(str(code), text) for code, text in meaning.items()])


def parsed(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    """For an option's `callback`: the value that contract.values parses, or its error."""

    def convert(_: click.Context, __: click.Parameter, text: str | None) -> Any:
        try:
            return None if text is None else parse(text)
        except values.BadValueError as error:
            raise click.BadParameter(f"{text!r} is not allowed; {error}") from None

    return convert


def output(*forms: str) -> Callable[[F], F]:
    """-o: the first form is the default."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(forms),
        default=forms[0],
        show_default=True,
        help="What to print: for people, or for programs.",
    )


def files(function: F) -> F:
    recursive = click.option(
        "-R", "--recursive", is_flag=True, help="Of a folder given with -f, read the folders in it too."
    )
    given = click.option(
        "-f",
        "--filename",
        "filenames",
        multiple=True,
        required=True,
        metavar="FILE",
        type=click.Path(allow_dash=True),
        help="A file of manifests, a folder of them, or - for standard input. May be repeated.",
    )
    return given(recursive(function))


def sidecar_image(function: F) -> F:
    return click.option(
        "--sidecar-image",
        metavar="IMAGE",
        callback=parsed(settings.BY_NAME["sidecar-image"].parse),
        envvar=IMAGE_VARIABLE,
        show_envvar=True,
        default=names.DEFAULT_SIDECAR_IMAGE,
        show_default=True,
        help="The sidecar's image where a pod names none.",
    )(function)
