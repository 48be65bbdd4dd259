"""What several commands share: their shape of help, and their options."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, TypeVar

import click

from contract import names, settings, values
from injector.admission.decision import Options
from injector.cli import codes
from injector.cli.cluster import COMPLETION_SECONDS, PAGE, namespaced, open_cluster

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


def cluster(function: F) -> F:
    """--context and --kubeconfig."""
    context = click.option("--context", default="", metavar="NAME", help="The kubeconfig's context to use.")
    config = click.option(
        "--kubeconfig", default="", metavar="FILE", help="The kubeconfig; else KUBECONFIG, ~/.kube/config."
    )
    return context(config(function))


def namespace(text: str) -> Callable[[F], F]:
    return click.option(
        *("-n", "--namespace"),
        default="",
        metavar="NAME",
        callback=lambda ctx, param, given: parsed(values.label)(ctx, param, given) if given else "",
        help=text,
        shell_complete=complete("namespaces"),
    )


def complete(kind: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Completes the names of `pods`, `services` or `namespaces`."""

    def completed(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
        """A cluster that does not answer at once completes nothing, and says nothing."""
        try:
            cluster = open_cluster(
                ctx.params.get("context") or "", ctx.params.get("kubeconfig") or "", COMPLETION_SECONDS
            )
            within = "" if kind == "namespaces" else ctx.params.get("namespace") or cluster.namespace
            found = cluster.get(namespaced(kind, within), limit=PAGE)["items"]
            known = [str(one["metadata"]["name"]) for one in found]
        except (codes.CliError, KeyError, TypeError):
            return []
        return [name for name in known if name.startswith(incomplete)]

    return completed


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


class Injection(NamedTuple):
    """What the installation would decide, given by hand."""

    options: Options
    namespace: str  # of manifests that name none; "" if it is not known


def injection(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of `python -m injector inject`, handed over as `given`, an Injection."""

    @click.option(
        "--sidecar-image",
        metavar="IMAGE",
        callback=parsed(settings.BY_NAME["sidecar-image"].parse),
        envvar=IMAGE_VARIABLE,
        show_envvar=True,
        default=names.DEFAULT_SIDECAR_IMAGE,
        show_default=True,
        help="The sidecar's image where a pod names none.",
    )
    @click.option(
        "--sidecar-kind",
        type=click.Choice(("native", "plain")),
        default="native",
        show_default=True,
        help="native: an init container with restartPolicy Always; plain: for clusters older than 1.29.",
    )
    @click.option(
        "--cluster-domain",
        metavar="DOMAIN",
        callback=parsed(values.domain),
        default=names.DEFAULT_CLUSTER_DOMAIN,
        show_default=True,
        help="What Services' names end in.",
    )
    @namespace("Where manifests that name no namespace will be applied.")
    @functools.wraps(function)
    def with_injection(
        sidecar_image: str, sidecar_kind: str, cluster_domain: str, namespace: str, **more: Any
    ) -> Any:
        version = importlib.metadata.version("evenstream")
        options = Options(sidecar_image, version, cluster_domain, native_sidecars=sidecar_kind == "native")
        return function(given=Injection(options, namespace), **more)

    return with_injection
