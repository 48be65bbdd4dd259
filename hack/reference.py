#!/usr/bin/env python3
"""Writes docs/reference/ from the programs themselves. Run it after a change: .venv/bin/python hack/reference.py

Settings come from contract/settings.py, metrics from what both programs expose, commands from their parsers.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import click  # noqa: E402
from markdowntable import table  # noqa: E402

from contract import names, settings  # noqa: E402
from contract.settings import Setting  # noqa: E402
from injector import __main__ as injector  # noqa: E402
from injector.cli.app import evenstream  # noqa: E402
from injector.metrics import Metrics  # noqa: E402
from sidecar import __main__ as sidecar  # noqa: E402
from sidecar.admin.metrics import MetricsWriter  # noqa: E402
from sidecar.admin.model import NO_STATUS, Status  # noqa: E402
from sidecar.admin.process import ProcessUsage  # noqa: E402
from sidecar.balance.endpoints import ServicePort, Snapshot  # noqa: E402
from sidecar.discovery.file import FileSource  # noqa: E402
from sidecar.splice.engine import Engine  # noqa: E402
from sidecar.view import View  # noqa: E402

OUT = ROOT / "docs" / "reference"
WRITTEN = "<!-- Written by hack/reference.py; change what it reads instead. -->\n"

# What the labels mean. A label that is not here stops the program: nobody adds one in silence.
LABELS = {
    "grpc_target": "the Service port, `NAME.NAMESPACE:PORT`",
    "grpc_status": "`OK`, `UNAVAILABLE`, ...; `none` for a stream that ended without one",
    "endpoint_address": "`IP:PORT` of the endpoint",
    "endpoint_pod": "its pod, where the EndpointSlice names one",
    "endpoint_zone": "its zone, where the EndpointSlice names one",
    "state": "of an endpoint: `idle`, `connecting`, `ready`, `draining`, `backoff`, `ejected`; "
    "of the sidecar: `starting`, `ready`, `draining`; of the source: its own word",
    "rung": "where the endpoints in use come from: `live`, `memory`, `disk`, `dns`, `original`, `none` "
    "([why](../adr/0005-ladder.md))",
    "kind": "of a connection: `grpc`, `passthrough`, `undecided`; of the source: `kubernetes`, `file`",
    "reason": "why a connection was passed through: `tls`, `http1`, `not_http2`, `not_a_service`, ...",
    "code": "name of the HTTP/2 error code",
    "during": "what was being done: `receive`, `write`, `timer`, `accept`, `dial`, `socket`, ...",
    "memo": "`block` or `field`",
    "result": "of a look-up: `hit`, `miss`; of a refresh: `ok`, `failed`",
    "event": "what happened at the source: `reconnects`, `relists`, `malformed`, ...",
    "outcome": "`injected`, `refused` (asked and cannot have it), `unchanged`, `failed` (our fault), "
    "`bad` (no AdmissionReview)",
    "version": "of Evenstream",
    "build": "`compiled` or `interpreted`",
    "python": "its version",
}


def code(text: str) -> str:
    return f"`{text}`" if text else ""


# Settings ---------------------------------------------------------------------------------------------------


def settings_page() -> str:
    def row(setting: Setting, *keys: str) -> list[str]:
        return [*map(code, keys), code(setting.form), code(setting.default), setting.help]

    annotations = table(
        ["annotation", "value", "default", "what it does"],
        [row(setting, setting.annotation) for setting in settings.SETTINGS if setting.annotation],
    )
    flags = table(
        ["flag", "environment", "value", "default", "what it does"],
        [row(setting, setting.flag, setting.env) for setting in settings.sidecar_settings()],
    )
    return f"""\
{WRITTEN}
# Settings

## Annotations of a pod

They stand in the metadata of the pod, which for a Deployment is `spec.template.metadata.annotations`, and are
read when the pod is made. Values are text: quote them.

```yaml
metadata:
  annotations:
    {names.INJECT_ANNOTATION}: "enabled"
    {names.ANNOTATION_PREFIX}services: "greeter:50051, orders.shop:7000"
```

{annotations}
An annotation that begins with `{names.ANNOTATION_PREFIX}` and is not in this list, or one whose value is not allowed,
leaves the pod as it is, with a warning that names it and says what is allowed. `{names.STATUS_ANNOTATION}` is
written by the injector: what it added, in JSON.

## The sidecar's flags and environment

In a pod the injector writes these. A flag beats the variable, which beats the default; an empty variable is one that
is not set. The same help, and an example, are in `python -m sidecar --help`.

{flags}
One more variable is read before all others: `EVENSTREAM_BUILD=interpreted` runs the Python files as they stand
instead of the compiled modules, and `compiled` refuses to start without those. `/status`, the log's first line and
`evenstream_build_info` say which runs.

A variable of that kind that this version does not know, as a newer injector may write, is ignored and named once in
the log. A value that is not allowed, of a variable or a flag, is an error, and so is a flag that does not exist.

The injector's own flags are under [commands](commands.md#injector-serve).
"""


# Metrics ----------------------------------------------------------------------------------------------------


def status_in_which_everything_has_happened() -> Status:
    """Of a real engine with two endpoints, and a count of each kind that only time would bring."""
    service = ServicePort("default", "greeter", 50051)
    meta = {"name": "greeter", "namespace": "default"}
    ports = [{"name": "grpc", "port": 50051}]
    items = [
        {"kind": "Service", "metadata": meta, "spec": {"clusterIP": "10.96.0.10", "ports": ports}},
        {
            "kind": "EndpointSlice",
            "metadata": {**meta, "labels": {"kubernetes.io/service-name": "greeter"}},
            "addressType": "IPv4",
            "ports": ports,
            "endpoints": [
                {"addresses": [f"10.244.0.{number}"], "conditions": {"ready": True}} for number in (1, 2)
            ],
        },
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "endpoints.json")
        path.write_text(json.dumps({"kind": "List", "items": items}))
        source = FileSource(str(path))
        engine = Engine(1)
        engine.service(service)
        source.watch(service, 0.0)
        for event in source.events():
            if isinstance(event, Snapshot):
                engine.update(event, 0.0)
        status = View(engine, source, None, 0.0).status(1.0)
    for counted in (status["services"][0], *status["services"][0]["endpoints"]):
        counted["grpc_status"] = {0: 1, NO_STATUS: 1}
    status["connections"]["passthrough_reasons"] = {"tls": 1}
    status["engine"]["protocol_errors"] = {"PROTOCOL_ERROR": 1}
    status["engine"]["internal_errors"] = {"receive": 1}
    return status


def families(exposed: bytes) -> Iterator[list[str]]:
    """Name, type, labels and help of each, as table cells, in the order they are exposed."""
    found: dict[str, list[str]] = {}
    for line in exposed.decode().splitlines():
        if line.startswith("# HELP "):
            name, _, text = line.removeprefix("# HELP ").partition(" ")
            found[name] = ["", "", text]
            current = name
        elif line.startswith("# TYPE "):
            kind = line.rpartition(" ")[2]
            found[current][0] = "info" if current.endswith("_info") else kind
        else:
            for label in re.findall(r'([a-z_]+)="', line):
                if label != "le" and code(label) not in found[current][1].split(", "):
                    if label not in LABELS:
                        raise SystemExit(f"label {label} of {current} is not described in {__file__}")
                    found[current][1] = ", ".join(filter(None, [found[current][1], code(label)]))
    for name, (kind, labels, text) in found.items():
        yield [code(name), kind, labels, text]


def metrics_page() -> str:
    usage = ProcessUsage(1.0, 1, 1, 1, 1.0)
    _, ours = MetricsWriter().render(status_in_which_everything_has_happened(), usage, openmetrics=False)
    metrics = Metrics()
    metrics.answered("injected", 0.001)
    _, theirs = metrics.render("")
    head = ["metric", "type", "labels", "what it tells"]
    per_process = "process_"
    sidecars = list(families(ours))
    used = [label for label in LABELS if re.search(rf"\b{label}=", (ours + theirs).decode())]
    return f"""\
{WRITTEN}
# Metrics

How to collect them, alerts, a dashboard, and what they correspond to in gRPC's and OpenTelemetry's own names: see
[observability](../observability.md).

## The sidecar's

`/metrics` on port {names.ADMIN_PORT}, in Prometheus' text format or OpenMetrics.

{table(head, [row for row in sidecars if not row[0].startswith("`" + per_process)])}
Besides these there are the usual ones of a process: {
        ", ".join(row[0] for row in sidecars if row[0].startswith("`" + per_process))
    }.

## The injector's

`/metrics` on its only port, {injector.SERVE_PORT}, over TLS.

{table(head, [row for row in families(theirs) if not row[0].startswith("`" + per_process)])}
## Labels

{table(["label", "what it is"], [[code(label), LABELS[label]] for label in used])}
A sidecar's series have a bound: beyond 1,000 endpoints or 100 Services the rest is summed under the label value
`other`, in totals that never fall.
"""


# Commands ---------------------------------------------------------------------------------------------------


def argparse_rows(parser: argparse.ArgumentParser) -> list[list[str]]:
    found = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction | argparse._HelpAction):
            continue
        value = action.metavar or action.dest.upper().replace("-", "_") if action.nargs != 0 else ""
        words = ", ".join(code(f"{option} {value}".strip()) for option in action.option_strings)
        text = (action.help or "") % {"default": action.default, "prog": parser.prog}
        found.append([words, text[:1].upper() + text[1:]])
    return found


def click_rows(command: click.Command) -> list[list[str]]:
    context = click.Context(command)
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    return [
        [code(record[0]), re.sub(r"\s*\[(.*)\]$", r" (\1)", record[1])]
        for record in records
        if record is not None and record[1] and "--help" not in record[0]
    ]


def click_text(text: str) -> str:
    """Paragraphs; one that begins with \\b, click's sign for lines to be kept, as a list."""
    found = []
    for part in text.split("\n\n"):
        if part.lstrip().startswith("\b"):
            lines = part.replace("\b", "").splitlines()
            found.append(
                "\n".join("- " + re.sub(r" {2,}", ": ", line.strip()) for line in lines if line.strip())
            )
        else:
            found.append(" ".join(part.split()))
    return "\n\n".join(found)


def click_section(command: click.Command, path: str) -> str:
    context = click.Context(command, info_name=path)
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    text = click_text(command.help or "")
    examples = "".join(f"- `{line}`: {said}\n" for line, said in getattr(command, "examples", ()))
    parts = [
        f"### {path}",
        f"`{usage}`",
        text.strip(),
        table(["option", "what it does"], click_rows(command)).strip(),
    ]
    if examples:
        parts.append("For example:\n\n" + examples.strip())
    return "\n\n".join(parts) + "\n"


def commands_page() -> str:
    head = ["option", "what it does"]
    by_name = injector._parser({})._subparsers._group_actions[0].choices  # type: ignore[union-attr]
    sections = "\n".join(click_section(command, f"evenstream {name}") for name, command in _commands())
    return f"""\
{WRITTEN}
# Commands

Each prints this and more with `--help`. A mistake is one line on standard error and exit code 2.

## evenstream

What a person uses, also as `kubectl evenstream`.

{sections}
## injector inject

`python -m injector inject -f FILE` prints manifests with the sidecar in their pods: the same code as the webhook.

{table(head, argparse_rows(by_name["inject"]))}
## injector serve

`python -m injector serve` is the webhook. Exit codes: 0 after SIGTERM; 1 if it could not start; 2 for a bad flag.

{table(head, argparse_rows(by_name["serve"]))}
## sidecar

`python -m sidecar`. Its flags are [settings](settings.md#the-sidecars-flags-and-environment). Exit codes: \
{sidecar.EXIT_OK} after a clean end; {sidecar.EXIT_PORT} if a port cannot be had; {sidecar.EXIT_USAGE} for a bad flag, \
value or environment.
"""


def _commands() -> list[tuple[str, Any]]:
    return [(name, evenstream.commands[name]) for name in evenstream.list_commands(click.Context(evenstream))]


PAGES = {"settings.md": settings_page, "metrics.md": metrics_page, "commands.md": commands_page}


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (OUT / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
