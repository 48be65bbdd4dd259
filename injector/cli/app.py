"""The commands by name, and how errors become one line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, Final

import click

from contract import names
from injector.cli import codes, options, screen
from injector.cli.check import check
from injector.cli.explain import explain
from injector.cli.manifests import diff, inject, uninject, validate
from injector.cli.top import top

SECTIONS: Final = {
    "Manifests": ("inject", "uninject", "diff", "validate"),
    "Cluster": ("check", "explain", "top"),
    "Shell": ("completion",),
}
HELP: Final = """Evenstream spreads the gRPC streams of a pod evenly over the pods of each Service it calls.

A pod asks for it with the annotation evenstream.dev/inject: "enabled". These commands show what becomes of
such pods, before and after they are in a cluster.
"""
START: Final = (
    ("evenstream check", "is the cluster ready for it, is it installed, does it work?"),
    ("evenstream explain POD", "why has this pod the sidecar, or not, and where do its streams go?"),
    ("evenstream top SERVICE", "how are the streams of a Service spread just now?"),
    ("evenstream diff -f deploy.yaml", "what would injection change?"),
)


class Group(click.Group):
    """Lists its commands by section, and ends its help with first steps and exit codes."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, commands in SECTIONS.items():
            found = [(name, self.commands[name]) for name in commands if name in self.commands]
            if not found:
                continue
            with formatter.section(section):
                formatter.write_dl([(name, one.get_short_help_str(limit=90)) for name, one in found])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Start with"):
            formatter.write_dl(START)
        options.write_exit_codes(formatter, codes.MEANING)

    def invoke(self, ctx: click.Context) -> Any:
        """Whoever reads our output may have had enough (head). click has an exit code of its own for that."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # What is buffered must not fail again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return codes.BROKEN_PIPE
        return result

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for names in SECTIONS.values() for name in names if name in self.commands]


@click.group(
    cls=Group,
    help=HELP,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(names.VERSION, message="evenstream %(version)s")
@click.option(
    "--color",
    type=click.Choice(screen.COLORS),
    default="auto",
    show_default=True,
    help="Colours; auto means on a terminal, unless NO_COLOR is set.",
)
def evenstream(color: str) -> None:
    screen.choose_color(color)


@evenstream.command(
    cls=options.Command, examples=(("source <(evenstream completion bash)", "now, in this shell"),)
)
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion(shell: str) -> None:
    """Print a script that makes the shell complete commands, options, pods and Services.

    Put it where the shell looks: for bash, add the line below to ~/.bashrc; for fish, save the output as
    ~/.config/fish/completions/evenstream.fish.
    """
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(evenstream, {}, "evenstream", "_EVENSTREAM_COMPLETE").source())


for command in (inject, uninject, diff, validate, check, explain, top):
    evenstream.add_command(command)


def run(arguments: Sequence[str]) -> int:
    """The exit code. Prints whatever goes wrong as one line on standard error."""
    try:
        # Not standalone: click would print two lines and a usage, and know one exit code.
        result = evenstream.main(list(arguments), prog_name="evenstream", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        screen.say(error.format_message())
        return codes.USAGE
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "evenstream"
        return _failed(f"{path}: {_lower(error.format_message())}; see {path} --help", codes.USAGE)
    except click.ClickException as error:
        return _failed(f"evenstream: {error.format_message()}", codes.USAGE)
    except codes.CliError as error:
        return _failed(f"evenstream: {error}", error.code)
    except (KeyboardInterrupt, click.Abort):
        return codes.INTERRUPTED
    return result if isinstance(result, int) else codes.OK


def _failed(text: str, code: int) -> int:
    screen.say(" ".join(text.split()), "red")
    return code


def _lower(text: str) -> str:
    return (text[:1].lower() + text[1:]).rstrip(".")
