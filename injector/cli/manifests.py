"""Commands about manifests, which need no cluster: inject, uninject, diff and validate."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
from rich.text import Text

from injector import manifest
from injector.admission.decision import BadPodError, Decision, decide
from injector.admission.decision import inject as injected
from injector.admission.removal import uninject as removed
from injector.admission.workloads import BadManifestError, Change, Where
from injector.cli import codes, options, screen
from injector.cli.findings import ERROR, WARNING, Finding, Findings
from injector.cli.options import Injection

SUFFIXES: Final = (".yaml", ".yml", ".json")
STANDARD_INPUT: Final = "standard input"

Json = dict[str, Any]


class File(NamedTuple):
    """A file of manifests that was read."""

    name: str
    documents: list[Any]


def read(filenames: Sequence[str], *, recursive: bool) -> Iterator[File]:
    """Each file, read when it is asked for. Raises CliError naming the file."""
    for given in filenames:
        for name in _expanded(given, recursive):
            shown = STANDARD_INPUT if name == "-" else name
            try:
                with open(0, "rb", closefd=False) if name == "-" else Path(name).open("rb") as file:
                    data = file.read(manifest.MAX_BYTES + 1)
                yield File(shown, manifest.parse(data))
            except OSError as error:
                raise codes.CliError(f"{shown}: {error.strerror}", codes.USAGE) from None
            except BadManifestError as error:
                raise codes.CliError(f"{shown}: {error}", codes.USAGE) from None


def _expanded(given: str, recursive: bool) -> list[str]:
    folder = Path(given)
    if given == "-" or not folder.is_dir():
        return [given]
    found = sorted(
        str(path)
        for path in (folder.rglob("*") if recursive else folder.glob("*"))
        if path.suffix in SUFFIXES and path.is_file()
    )
    if not found:
        raise codes.CliError(f"{given}: a folder without {', '.join(SUFFIXES)} files", codes.USAGE)
    return found


def _write(documents: list[Any], form: str) -> None:
    if form == "json":
        one = (
            documents[0] if len(documents) == 1 else {"apiVersion": "v1", "kind": "List", "items": documents}
        )
        screen.print_json(one)
    else:
        sys.stdout.write(manifest.dump(documents))


def _each_pod(file: File, change: Change, findings: Findings) -> list[Any]:
    def warn(where: str, text: str) -> None:
        findings.add(WARNING, where, text)

    try:
        return manifest.each_pod(file.documents, change, warn)
    except BadManifestError as error:
        raise codes.CliError(f"{file.name}: {error}", codes.USAGE) from None


@click.command(
    cls=options.Command,
    short_help="Add the sidecar to the pods in manifests, as the webhook would.",
    examples=(
        ("evenstream inject -f deploy.yaml | kubectl apply -f -", "without a webhook in the cluster"),
        ("kubectl get deploy web -o yaml | evenstream inject -f -", "what is in the cluster"),
    ),
    exits=(codes.OK, codes.USAGE),
)
@options.files
@options.injection
@options.output("yaml", "json")
def inject(filenames: tuple[str, ...], recursive: bool, given: Injection, output: str) -> None:
    """Add the sidecar to the pods that ask for it, and print all manifests.

    This is the webhook's own code, so the pods come out as they would in a cluster that has the webhook; it
    then leaves them alone. A pod that asks and cannot be injected stays as it is, and a warning says why.
    """
    documents: list[Any] = []
    for file in read(filenames, recursive=recursive):
        findings = Findings(file.name)

        def change(where: Where, pod: Json, findings: Findings = findings) -> Json:
            decision = _decide(where, pod, given)
            for warning in decision.warnings:
                findings.add(WARNING, where, warning)
            return injected(pod, decision)

        documents += _each_pod(file, change, findings)
        findings.show()
    _write(documents, output)


def _decide(where: Where, pod: Json, given: Injection) -> Decision:
    try:
        return decide(pod, given.options, where.namespace or given.namespace)
    except BadPodError as error:
        raise BadManifestError(f"{where}: {error}") from None


@click.command(
    cls=options.Command,
    short_help="Take the sidecar out of manifests again.",
    examples=(
        ("kubectl get deploy web -o yaml | evenstream uninject -f - | kubectl apply -f -", "turn it off"),
    ),
    exits=(codes.OK, codes.USAGE),
)
@options.files
@click.option(
    "--keep-annotation",
    is_flag=True,
    help="Leave evenstream.dev/inject as it is: exactly what was there before inject.",
)
@options.output("yaml", "json")
def uninject(filenames: tuple[str, ...], recursive: bool, keep_annotation: bool, output: str) -> None:
    """Remove what injection added to pods, and print all manifests.

    A pod that asks for the sidecar is also made to say evenstream.dev/inject: "disabled", or the webhook of the
    cluster would add it again.
    """
    documents: list[Any] = []
    for file in read(filenames, recursive=recursive):
        findings = Findings(file.name)
        documents += _each_pod(file, lambda _, pod: removed(pod, disable=not keep_annotation), findings)
    _write(documents, output)


@click.command(
    cls=options.Command,
    short_help="Show what injection would change in manifests.",
    examples=(("evenstream diff -f k8s/ -R", "all of a folder"),),
    exits=(codes.OK, codes.FOUND, codes.USAGE),
)
@options.files
@options.injection
@options.output("text", "json")
def diff(filenames: tuple[str, ...], recursive: bool, given: Injection, output: str) -> int:
    """Print a unified diff from the manifests as they are to the manifests with the sidecar.

    With -o json: for each pod that changes, the JSON patch (RFC 6902) that the webhook would send. Like diff
    itself, this ends with 1 if there is a difference.
    """
    told: list[Json] = []
    for file in read(filenames, recursive=recursive):
        findings = Findings(file.name)

        def change(where: Where, pod: Json, file: File = file, findings: Findings = findings) -> Json:
            decision = _decide(where, pod, given)
            for warning in decision.warnings:
                findings.add(WARNING, where, warning)
            if decision.patch:
                told.append({"file": file.name, "where": where, "patch": list(decision.patch)})
            return injected(pod, decision)

        after = _each_pod(file, change, findings)
        if output == "text":
            _show_diff(file, after)
        findings.show()
    if output == "json":
        screen.print_json(told)
    return codes.FOUND if told else codes.OK


def _show_diff(file: File, after: list[Any]) -> None:
    styles = {"+": "green", "-": "red", "@": "cyan"}
    lines = difflib.unified_diff(
        manifest.dump(file.documents).splitlines(),
        manifest.dump(after).splitlines(),
        file.name,
        f"{file.name} (injected)",
        lineterm="",
    )
    terminal = screen.console()
    for line in lines:
        bold = "bold" if line.startswith(("+++", "---")) else styles.get(line[:1], "")
        terminal.print(Text(line, bold))


@click.command(
    cls=options.Command,
    short_help="Check the annotations in manifests, for CI.",
    examples=(
        ("evenstream validate -f k8s/ -R", "each pull request"),
        ("helm template . | evenstream validate --strict -f -", "warnings count as errors"),
    ),
    exits=(codes.OK, codes.FOUND, codes.USAGE),
)
@options.files
@options.injection
@click.option("--strict", is_flag=True, help="Fail on warnings too.")
@options.output("text", "json")
def validate(filenames: tuple[str, ...], recursive: bool, given: Injection, strict: bool, output: str) -> int:
    """Find what would leave a pod that asks without the sidecar, before it is in a cluster.

    Errors: a value that is not allowed, an annotation that does not exist, a pod that cannot have the sidecar
    (hostNetwork, a port or name that is taken). Warnings: an annotation where it has no effect.
    """
    counts = {"sidecar": 0, "did_not_ask": 0, "refused": 0}
    all_findings: list[Finding] = []
    files = 0
    for file in read(filenames, recursive=recursive):
        files += 1
        findings = Findings(file.name)

        def judge(where: Where, pod: Json, findings: Findings = findings) -> Json:
            _judge(where, pod, given, findings, counts)
            return pod

        _each_pod(file, judge, findings)
        all_findings += findings.all
        if output == "text":
            findings.show(to_stdout=True)
    wrong = any(finding.level == ERROR or strict for finding in all_findings)
    if output == "json":
        screen.print_json({"files": files, "pods": counts, "findings": [f._asdict() for f in all_findings]})
    else:
        screen.console().print(Text(_summary(files, counts), "red" if wrong else "green"))
    return codes.FOUND if wrong else codes.OK


def _judge(where: Where, pod: Json, given: Injection, findings: Findings, counts: dict[str, int]) -> None:
    decision = _decide(where, pod, given)
    for warning in decision.warnings:
        findings.add(ERROR, where, warning)
    if decision.warnings:
        counts["refused"] += 1
    elif decision.patch or decision.reason == "injected already":
        counts["sidecar"] += 1
    else:
        counts["did_not_ask"] += 1
        findings.idle_annotations(where, pod)


def _summary(files: int, counts: dict[str, int]) -> str:
    return (
        f"{files} file{'s'[: files != 1]}; pods and templates: {counts['sidecar']} with the sidecar, "
        f"{counts['refused']} refused, {counts['did_not_ask']} that did not ask"
    )
