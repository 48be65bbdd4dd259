"""`evenstream top`: who is given how many streams, over all client pods, live."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from injector.cli import codes, options, screen, verdict
from injector.cli.clients import Clients
from injector.cli.cluster import open_cluster
from injector.cli.ctrlc import CtrlC
from injector.cli.show import STATES, span
from injector.cli.traffic import EndpointTraffic, Look, ServiceTraffic, services

BAR: Final = 20  # characters
STYLES: Final = {"even": "green", "as random picks": "yellow", "uneven": "bold red"}


@click.command(
    cls=options.Command,
    short_help="How the streams of a Service are spread, live, with a verdict.",
    examples=(
        ("evenstream top", "all Services that pods with the sidecar call"),
        ("evenstream top greeter -n shop", "one of them, endpoint by endpoint"),
        ("evenstream top greeter --for 30 -o json || alert", "a script: exit code 3 if it is uneven"),
    ),
    exits=(codes.OK, codes.USAGE, codes.UNEVEN, codes.CLUSTER),
)
@click.argument("service", required=False, default="", shell_complete=options.complete("services"))
@options.namespace("The Service's namespace; else the kubeconfig's.")
@click.option(
    "--for",
    "seconds",
    type=click.FloatRange(0.1, 3600),
    metavar="SECONDS",
    help="Measure this long, print once and end. [default where there is no terminal: 10]",
)
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 60),
    default=2.0,
    show_default=True,
    help="Seconds between two looks at the sidecars.",
)
@click.option(
    "--max-clients",
    type=click.IntRange(0),
    default=200,
    show_default=True,
    help="Ask at most so many client pods; 0 for all.",
)
@options.cluster
@options.output("text", "json")
def top(
    service: str,
    namespace: str,
    seconds: float | None,
    interval: float,
    max_clients: int,
    context: str,
    kubeconfig: str,
    output: str,
) -> int:
    """Add up what the sidecars of all client pods tell: open streams, calls a second, errors and latency.

    SERVICE is a name, NAME.NAMESPACE, or either with :PORT. The verdict compares the endpoints that took streams
    all the while. Live, it ends with Ctrl-C.

    \b
    even             the fullest is within 10 % of the mean, or as near as whole streams allow
    as random picks  not even, but dice would do no better in 1 of 100 cases (a chi-square test)
    uneven           chance does not explain it: exit code 3
    """
    cluster = open_cluster(context, kubeconfig)
    wanted = _matcher(service, namespace or cluster.namespace) if service else None
    with Clients(cluster, max_clients) as clients:
        if seconds is None and output == "text" and sys.stdout.isatty():
            found = _live(clients, wanted, interval, detailed=bool(service))
        else:
            found = _measured(clients, wanted, interval, seconds or 10.0)
            _refuse_nothing(found, clients, service)
            if output == "json":
                screen.print_json(as_json(found, clients))
            else:
                screen.console().print(screenful(found, clients, detailed=bool(service)))
    return codes.UNEVEN if any(one.verdict.uneven for one in found) else codes.OK


def _matcher(text: str, namespace: str) -> Callable[[str], bool]:
    """Whether `greeter.shop:50051` is meant by `greeter`, `greeter.shop`, `greeter:50051` or `svc/greeter`."""
    text = text.removeprefix("service/").removeprefix("services/").removeprefix("svc/")
    name, _, port = text.partition(":")
    if port and not port.isdigit():
        raise codes.CliError(
            f"{text!r} is no Service; allowed: NAME, NAME.NAMESPACE, and :PORT after it", codes.USAGE
        )
    full = name if "." in name else f"{name}.{namespace}"
    return lambda known: known == f"{full}:{port}" if port else known.rpartition(":")[0] == full


def _chosen(looks: Sequence[Look], wanted: Callable[[str], bool] | None) -> list[ServiceTraffic]:
    return [one for one in services(looks) if wanted is None or wanted(one.service)]


def _measured(
    clients: Clients, wanted: Callable[[str], bool] | None, interval: float, seconds: float
) -> list[ServiceTraffic]:
    """Looks at the beginning, at each interval, and at the end."""
    looks = [clients.look()]
    until = looks[0].at + seconds
    while looks[-1].at < until:
        time.sleep(max(0.0, min(interval, until - time.monotonic())))
        looks.append(clients.look())
    return _chosen(looks, wanted)


def _live(
    clients: Clients, wanted: Callable[[str], bool] | None, interval: float, *, detailed: bool
) -> list[ServiceTraffic]:
    """Until Ctrl-C. The last ten seconds, or as many looks as make two, are what is judged."""
    looks: deque[Look] = deque([clients.look()], maxlen=max(2, round(10 / interval) + 1))
    found: list[ServiceTraffic] = []
    with (
        CtrlC() as ctrl_c,
        Live(Text("looking"), console=screen.console(), auto_refresh=False) as live,
    ):
        while not ctrl_c.within(interval):
            looks.append(clients.look())
            found = _chosen(looks, wanted)
            live.update(screenful(found, clients, detailed=detailed), refresh=True)
    return found


def _refuse_nothing(found: Sequence[ServiceTraffic], clients: Clients, service: str) -> None:
    if found:
        return
    if not clients.count:
        text = "no running pod has the sidecar; see evenstream check"
    elif service:
        text = f"none of {clients.count} pods with the sidecar has called Service {service}; evenstream top lists all"
    else:
        text = f"none of {clients.count} pods with the sidecar has called a Service; evenstream explain POD says why"
    raise codes.CliError(text, codes.CLUSTER)


def screenful(found: Sequence[ServiceTraffic], clients: Clients, *, detailed: bool) -> RenderableType:
    parts: list[RenderableType] = []
    for each in found if detailed else ():
        parts += [_headline(each), _endpoints(each), Text()]
    if not detailed:
        parts.append(_overview(found))
    if not found:
        parts.append(Text(f"{clients.count} pods with the sidecar; none has called it yet"))
    if clients.left_out:
        parts.append(Text(f"{clients.left_out} more pods were not asked (--max-clients)", "yellow"))
    parts += [Text(f"not counted: {note}", "yellow") for note in clients.notes]
    return Group(*parts)


def _headline(one: ServiceTraffic) -> Text:
    text = Text.assemble(
        (one.service, "bold"),
        f"  {one.clients} client pods, {_rate(one.calls, one)} calls/s, {_rate(one.errors, one)} not OK/s, "
        f"p50 {_latency(one, 0.5)}, p99 {_latency(one, 0.99)}\n",
        (one.verdict.word, STYLES.get(one.verdict.word, "")),
        f": {one.verdict.why}",
    )
    if one.queued:
        text.append(f"\n{one.queued} streams wait for an endpoint", "red")
    return text


def _endpoints(one: ServiceTraffic) -> RenderableType:
    right = ("OPEN", "CALLS/S", "ERRORS/S", "P50", "P99")
    table = screen.table(
        "ENDPOINT", "ADDRESS", "OPEN", "CALLS/S", "", "ERRORS/S", "P50", "P99", "STATE", right=right
    )
    most = max((each.calls for each in one.endpoints), default=0)
    for each in one.endpoints:
        style = STATES.get(each.state, ("", "yellow"))[1]
        table.add_row(
            each.pod or "-",
            each.address,
            f"{each.open_streams:,}",
            f"{each.calls / one.seconds:,.1f}",
            Text("█" * round(BAR * each.calls / most) if most else "", "cyan"),
            Text(f"{each.errors / one.seconds:,.1f}", "red" if each.errors else "dim"),
            _shown(each.seconds.quantile(0.5)),
            _shown(each.seconds.quantile(0.99)),
            Text(each.state, style),
        )
    return table


def _overview(found: Sequence[ServiceTraffic]) -> RenderableType:
    right = ("CLIENTS", "ENDPOINTS", "OPEN", "CALLS/S", "NOT OK/S", "P50", "P99", "MAX/MEAN")
    table = screen.table("SERVICE", *right, "VERDICT", right=right)
    for one in found:
        table.add_row(
            one.service,
            str(one.clients),
            str(len(one.endpoints)),
            f"{sum(each.open_streams for each in one.endpoints):,}",
            f"{one.calls / one.seconds:,.1f}",
            Text(f"{one.errors / one.seconds:,.1f}", "red" if one.errors else "dim"),
            _latency(one, 0.5),
            _latency(one, 0.99),
            f"{one.verdict.ratio:.2f}" if one.verdict.ratio is not None else "-",
            Text(one.verdict.word, STYLES.get(one.verdict.word, "")),
        )
    return table


def _rate(count: int, one: ServiceTraffic) -> str:
    return f"{count / one.seconds:,.1f}"


def _latency(one: ServiceTraffic, share: float) -> str:
    return _shown(one.latency.quantile(share))


def _shown(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.1f} ms" if seconds < 0.01 else span(seconds)


def as_json(found: Sequence[ServiceTraffic], clients: Clients) -> dict[str, Any]:
    return {
        "even": not any(one.verdict.uneven for one in found),
        "clients": clients.count,
        "not_counted": clients.notes,
        "services": [
            {
                "service": one.service,
                "seconds": round(one.seconds, 3),
                "clients": one.clients,
                "queued_streams": one.queued,
                "calls": one.calls,
                "calls_per_second": round(one.calls / one.seconds, 3),
                "not_ok": one.errors,
                "p50_seconds": one.latency.quantile(0.5),
                "p99_seconds": one.latency.quantile(0.99),
                "verdict": {**one.verdict._asdict(), "threshold": verdict.UNLIKELY},
                "endpoints": [_endpoint_json(each, one.seconds) for each in one.endpoints],
            }
            for one in found
        ],
    }


def _endpoint_json(each: EndpointTraffic, seconds: float) -> dict[str, Any]:
    return {
        "address": each.address,
        "pod": each.pod,
        "zone": each.zone,
        "states": dict(each.states),
        "open_streams": each.open_streams,
        "open_streams_mean": round(each.open_mean, 3),
        "calls": each.calls,
        "calls_per_second": round(each.calls / seconds, 3),
        "errors": each.errors,
        "p50_seconds": each.seconds.quantile(0.5),
        "p99_seconds": each.seconds.quantile(0.99),
        "judged": each.took_throughout,
    }
