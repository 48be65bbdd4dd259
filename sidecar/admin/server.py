"""The admin port: its routes, who may see what, and the connections that are open to it."""

from __future__ import annotations

import ipaddress
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from sidecar.admin.connection import AdminConnection, Ask, Reply, Transport
from sidecar.admin.metrics import MetricsWriter
from sidecar.admin.model import StatusView
from sidecar.admin.page import page
from sidecar.admin.process import read_process_usage

# Probes, a scraper or two and a few people: far more than that is a mistake or an attack, and each connection
# may hold a rendered page.
MAX_ADMIN_CONNECTIONS: Final = 32
# Rendering runs between turns of the data plane, so /metrics and /status are rendered no more often than
# this: at 1,000 endpoints that keeps the admin port below half a core however many ask. The rest wait.
RENDER_INTERVAL_SECONDS: Final = 0.02

# status -> services -> a service -> endpoints: an endpoint and everything else that deep is one line.
JSON_INDENTED_LEVELS: Final = 4
_JSON: Final = json.JSONEncoder(allow_nan=False, ensure_ascii=False, default=str).encode
JSON_TYPE: Final = "application/json"
HTML_TYPE: Final = "text/html; charset=utf-8"
OFF_LOOPBACK: Final = "answered from inside the pod only, e.g. through kubectl port-forward or kubectl exec"


class Route(NamedTuple):
    methods: tuple[str, ...]
    public: bool = False  # answered off the loopback
    rendered: bool = False  # paced by RENDER_INTERVAL_SECONDS


_GET: Final = ("GET", "HEAD")
ROUTES: Final[Mapping[str, Route]] = {
    "/livez": Route(_GET, public=True),
    "/readyz": Route(_GET, public=True),
    "/metrics": Route(_GET, public=True, rendered=True),
    "/status": Route(_GET, rendered=True),
    "/": Route(_GET),
    "/drain": Route(("POST",)),
}


class AdminServer:
    """Answers on the admin port; sans-IO.

    Call order: `accept` for every new connection, then its `received` and `lost` as they come; `tick` no
    later than `deadline`. Each call may write to and close transports of any connection. `on_drain` is called
    inside POST /drain, each time, and returns at once; None: there is no drain (501). `log` takes one line
    for each fault of the view or the renderer, which end as 500 and never reach the caller.
    """

    def __init__(
        self,
        view: StatusView,
        *,
        on_drain: Callable[[], None] | None,
        log: Callable[[str], None] | None = None,
    ) -> None:
        self._view = view
        self._on_drain = on_drain
        self._log = log
        self._metrics = MetricsWriter()
        self._connections: set[AdminConnection] = set()
        self._next_render = -math.inf
        page("")  # a build without its page fails at the start, not at the first look

    def accept(self, transport: Transport, peer_host: str, now: float) -> AdminConnection:
        """A new connection from the IP address `peer_host`. When there are too many, one ends for it."""
        if len(self._connections) >= MAX_ADMIN_CONNECTIONS:
            self._evict()
        connection = AdminConnection(self, transport, peer_host, is_loopback(peer_host), now)
        self._connections.add(connection)
        return connection

    def tick(self, now: float) -> None:
        """Time-outs, and requests that waited for their turn; for all connections."""
        for connection in sorted(self._connections, key=lambda c: (c.deadline(), c.last_active)):
            if connection.deadline() <= now:
                connection.tick(now)

    def deadline(self) -> float:
        """When `tick` is wanted next, on the clock of `now`; infinity if never."""
        return min((connection.deadline() for connection in self._connections), default=math.inf)

    def close(self) -> None:
        """End all connections, after what was written to them."""
        for connection in list(self._connections):
            connection.end()

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    # For AdminConnection.

    def ended(self, connection: AdminConnection) -> None:
        self._connections.discard(connection)

    def turn_for(self, ask: Ask, now: float) -> float:
        """When this request may be answered: `now`, or a later time if it must be rendered."""
        route = ROUTES.get(ask.path)
        if route is None or not route.rendered:
            return now
        return max(now, self._next_render)

    def reply(self, ask: Ask, now: float) -> Reply:
        """The answer to one whole request. Does not raise: a fault of the view is a 500."""
        refusal = _refusal(ask)
        if refusal is not None:
            return refusal
        try:
            return self._routed(ask, now)
        except Exception as error:  # a fault in a report must not end everybody's streams
            if self._log is not None:
                self._log(f"admin: {ask.method} {ask.path} failed: {type(error).__name__}: {error}")
            return Reply(
                500, f"{ask.path} could not be made: {type(error).__name__}; see the sidecar's log\n"
            )

    def _routed(self, ask: Ask, now: float) -> Reply:
        if ROUTES[ask.path].rendered:
            self._next_render = now + RENDER_INTERVAL_SECONDS
        if ask.path == "/livez":
            return Reply(200, "ok\n")
        if ask.path == "/readyz":
            readiness = self._view.readiness(now)
            return Reply(200 if readiness.ready else 503, " ".join(readiness.reason.split()) + "\n")
        if ask.path == "/metrics":
            content_type, body = self._metrics.render(
                self._view.status(now), read_process_usage(), openmetrics=wants_openmetrics(ask.accept)
            )
            return Reply(200, body, content_type)
        if ask.path == "/status":
            return Reply(200, json_text(self._view.status(now)), JSON_TYPE)
        if ask.path == "/drain":
            if self._on_drain is None:
                return Reply(501, "this sidecar cannot be drained: it was started without a drain\n")
            self._on_drain()
            return Reply(202, "draining\n")
        nonce = os.urandom(16).hex()
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
            "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        return Reply(200, page(nonce), HTML_TYPE, (("Content-Security-Policy", policy),))

    def _evict(self) -> None:
        """Of the peer with the most connections, the one that has been silent longest. So whoever opens many
        loses their own, and a probe of the kubelet always gets in."""
        held = Counter(connection.peer_host for connection in self._connections)
        victim = max(self._connections, key=lambda c: (held[c.peer_host], -c.last_active))
        victim.end()


def _refusal(ask: Ask) -> Reply | None:
    """Why the request is not answered, or None if it is."""
    route = ROUTES.get(ask.path)
    if not ask.loopback and (route is None or not route.public):
        return Reply(403, f"{_shown(ask.path)} is {OFF_LOOPBACK}\n")
    if route is None:
        return Reply(404, f"no {_shown(ask.path)} here; there are: {', '.join(ROUTES)}\n")
    if ask.method not in route.methods:
        allowed = ", ".join(route.methods)
        return Reply(405, f"{ask.path} allows {allowed}\n", headers=(("Allow", allowed),))
    if route.public:
        return None
    # A web page of anybody's can make a browser on this machine send requests here. By a name of its own that
    # it points at 127.0.0.1 (DNS rebinding) it could read the answers, hence no names; and a POST it may send
    # without reading anything, but with its Origin.
    if ask.host is not None and not is_local_name(ask.host):
        return Reply(421, f"Host is {_shown(ask.host)}; allowed: an IP address or localhost\n")
    if ask.origin is not None and ask.origin != f"http://{ask.host}":
        return Reply(403, f"Origin is {_shown(ask.origin)}; allowed: this page's own, or none\n")
    return None


def _shown(text: str) -> str:
    """What a peer sent, safe and short enough to be shown."""
    return "".join(c if c.isprintable() else "?" for c in text[:100])


def is_loopback(host: str) -> bool:
    """Whether the IP address is 127.0.0.0/8 or ::1, IPv4-mapped included. A name is not."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def is_local_name(host: str) -> bool:
    """Whether a Host header names an IP address or localhost, with or without a port."""
    match = re.fullmatch(r"(\[[^\[\]]*\]|[^:\[\]]*)(:[0-9]{0,5})?", host)
    if match is None:
        return False
    name = match[1]
    if name.lower() == "localhost":
        return True
    try:
        ipaddress.IPv6Address(name[1:-1]) if name.startswith("[") else ipaddress.IPv4Address(name)
    except ValueError:
        return False
    return True


def wants_openmetrics(accept: str) -> bool:
    """Whether an Accept header prefers OpenMetrics 1.0 to Prometheus' text format (RFC 9110, 12.5.1)."""
    openmetrics, text = 0.0, 0.0
    for item in accept.split(","):
        media, *parameters = (part.strip().lower() for part in item.split(";"))
        given = dict(parameter.partition("=")[::2] for parameter in parameters)
        quality = _quality(given.get("q", "1"))
        if media == "application/openmetrics-text" and given.get("version", "1.0.0") == "1.0.0":
            openmetrics = max(openmetrics, quality)
        elif media in ("text/plain", "text/*"):
            text = max(text, quality)
    return openmetrics > 0 and openmetrics >= text


def _quality(text: str) -> float:
    return float(text) if re.fullmatch(r"[01](\.[0-9]{0,3})?", text) else 0.0


def json_text(value: Any) -> bytes:
    """Indented JSON down to each endpoint, which is one line. Numbers that JSON does not have become null,
    and what it does not know at all its str(). (json's own indentation is Python code, 30 times slower.)"""
    try:
        text = _indented(value, JSON_INDENTED_LEVELS, "\n")
    except ValueError:
        text = _indented(_finite(value), JSON_INDENTED_LEVELS, "\n")
    return text.encode("utf-8", "replace") + b"\n"


def _indented(value: Any, levels: int, newline: str) -> str:
    deeper = newline + "  "
    if levels and value and isinstance(value, dict):
        items = [f"{_JSON(str(key))}: {_indented(each, levels - 1, deeper)}" for key, each in value.items()]
        return "{" + deeper + ("," + deeper).join(items) + newline + "}"
    if levels and value and isinstance(value, list):
        return (
            "["
            + deeper
            + ("," + deeper).join([_indented(v, levels - 1, deeper) for v in value])
            + newline
            + "]"
        )
    return _JSON(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value
