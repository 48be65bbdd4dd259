"""Parsers from the text a user wrote to a value, each with one clear error.

Every parser takes the text and returns the value, or raises `BadValueError` whose text says what is allowed.
The caller adds where the text stood (annotation, variable or flag).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Final, NamedTuple

# A DNS-1035 label, as Kubernetes wants for a Service (KEP-5311 relaxes it to DNS-1123), 63 characters at most.
LABEL: Final = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_LABEL: Final = re.compile(LABEL)
QUANTITY: Final = r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(m|k|M|G|T|Ki|Mi|Gi|Ti)?"
_QUANTITY: Final = re.compile(QUANTITY)
_FACTOR: Final[Mapping[str | None, Fraction]] = {
    None: Fraction(1),
    "m": Fraction(1, 1000),
    **{suffix: Fraction(1000**power) for power, suffix in enumerate("kMGT", 1)},
    **{suffix: Fraction(1024**power) for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti"), 1)},
}
# An image reference as the distribution spec has it, loosely: no spaces, no upper-case repository.
IMAGE: Final = (
    r"([A-Za-z0-9.-]+(:[0-9]+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:[0-9A-Za-z_][0-9A-Za-z_.-]{0,127})?"
    r"(@sha256:[0-9a-f]{64})?"
)
_IMAGE: Final = re.compile(IMAGE)
MAX_PORT: Final = 65535
# A day: what takes longer is not waited for by anybody.
MAX_SECONDS: Final = 86400
# RFC 1035's 255 less what stands in front: two labels, "svc" and dots.
MAX_DOMAIN: Final = 120
# More would not fit an iptables-restore input or an environment anybody reads.
MAX_LIST_ITEMS: Final = 100


class BadValueError(ValueError):
    """The text is not what the setting allows; the message says what is."""


class ServiceRef(NamedTuple):
    """A Service port as a user names it: `greeter:50051` or `orders.shop:7000`."""

    name: str
    namespace: str  # empty: the pod's own namespace
    port: int

    def __str__(self) -> str:
        dotted = f"{self.name}.{self.namespace}" if self.namespace else self.name
        return f"{dotted}:{self.port}"


class Address(NamedTuple):
    """An IP address and port to listen on."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Listen(NamedTuple):
    """A listener of its own for one Service port: `127.0.0.1:7000=greeter.default:50051`."""

    address: Address
    service: ServiceRef

    def __str__(self) -> str:
        return f"{self.address}={self.service}"


class SourceRef(NamedTuple):
    """Where endpoints come from: `kubernetes`, or `file:PATH`."""

    kind: str
    path: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}" if self.path else self.kind


class OutlierEjection(NamedTuple):
    """When an endpoint whose calls keep failing is to rest: `failures=5,seconds=30,share=50`."""

    failures: int  # in a row; 0: off
    seconds: int  # the first time; each further time longer
    share: int  # percent of the endpoints that may rest at once, at most

    def __str__(self) -> str:
        if not self.failures:
            return "off"
        return f"failures={self.failures},seconds={self.seconds},share={self.share}"


# Envoy's consecutive_5xx; gRFC A50's base_ejection_time. A50's share of 10 % would round to no endpoint at all for most
# Services; half of them can carry the load for half a minute, and where they cannot, the share is there to be set.
DEFAULT_EJECTION: Final = OutlierEjection(failures=5, seconds=30, share=50)
EJECTION_LIMITS: Final = {"failures": 1000, "seconds": 3600, "share": 90}


def outlier_ejection(text: str) -> OutlierEjection:
    if text == "off":
        return DEFAULT_EJECTION._replace(failures=0)
    found: dict[str, int] = {}
    for item in text.split(",") if text != "on" else ():
        name, _, number = item.strip().partition("=")
        most = EJECTION_LIMITS.get(name, 0)
        good = number.isascii() and number.isdigit() and len(number) <= 4 and 1 <= int(number) <= most
        if not good or name in found:
            limits = ", ".join(f"{each} up to {limit}" for each, limit in EJECTION_LIMITS.items())
            raise BadValueError(
                f"allowed: off, on, or any of {DEFAULT_EJECTION} (these are the defaults), each once; {limits}"
            )
        found[name] = int(number)
    return DEFAULT_EJECTION._replace(**found)


class OneOf:
    """A parser that takes one of a few words."""

    def __init__(self, *choices: str) -> None:
        self.choices: Final = choices

    def __call__(self, text: str) -> str:
        if text not in self.choices:
            raise BadValueError(f"allowed: {', '.join(self.choices)}")
        return text


def one_of(*choices: str) -> OneOf:
    return OneOf(*choices)


def port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= MAX_PORT and len(text) <= 5):
        raise BadValueError(f"allowed: a port from 1 to {MAX_PORT}")
    return int(text)


def _listed(text: str) -> Sequence[str]:
    items = [item.strip() for item in text.split(",")] if text.strip() else []
    if len(items) > MAX_LIST_ITEMS:
        raise BadValueError(f"allowed: at most {MAX_LIST_ITEMS} items")
    return items


def ports(text: str) -> tuple[int, ...]:
    items = _listed(text)
    try:
        return tuple(port(item) for item in items)
    except BadValueError:
        raise BadValueError(f"allowed: ports from 1 to {MAX_PORT}, separated by commas") from None


def cidrs(text: str) -> tuple[str, ...]:
    found = []
    for item in _listed(text):
        try:
            found.append(str(ipaddress.ip_network(item, strict=True)))
        except ValueError:
            raise BadValueError(
                "allowed: CIDRs without host bits, such as 10.0.0.0/8 or fd00::/8, separated by commas"
            ) from None
    return tuple(found)


def service(text: str) -> ServiceRef:
    dotted, colon, number = text.rpartition(":")
    name, _, namespace = dotted.partition(".")
    good = colon and _LABEL.fullmatch(name) and (not namespace or _LABEL.fullmatch(namespace))
    if not good or dotted.endswith("."):
        raise BadValueError(
            "allowed: NAME:PORT or NAME.NAMESPACE:PORT, such as greeter:50051 or orders.shop:7000"
        )
    return ServiceRef(name, namespace, port(number))


def services(text: str) -> tuple[ServiceRef, ...]:
    items = _listed(text)
    try:
        return tuple(service(item) for item in items)
    except BadValueError:
        raise BadValueError(
            "allowed: Services of this cluster as NAME:PORT or NAME.NAMESPACE:PORT, separated by commas, "
            "such as greeter:50051, orders.shop:7000"
        ) from None


def ip(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise BadValueError("allowed: an IP address, such as 127.0.0.1 or ::1") from None


def address(text: str) -> Address:
    host, _, number = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        found = ipaddress.ip_address(host[1:-1] if bracketed else host)
        if bracketed != (found.version == 6):  # without brackets ::1:80 is an address of its own
            raise ValueError(host)
        return Address(str(found), port(number))
    except ValueError:
        raise BadValueError(
            "allowed: ADDRESS:PORT with an IP address, such as 127.0.0.1:15020 or [::1]:15020"
        ) from None


def listen(text: str) -> Listen:
    where, equals, what = text.partition("=")
    try:
        if not equals:
            raise BadValueError("no =")
        return Listen(address(where), service(what))
    except BadValueError:
        raise BadValueError(
            "allowed: ADDRESS:PORT=SERVICE.NAMESPACE:PORT, such as 127.0.0.1:7000=greeter.default:50051"
        ) from None


def listens(text: str) -> tuple[Listen, ...]:
    return tuple(listen(item) for item in _listed(text))


def source(text: str) -> SourceRef:
    kind, _, path = text.partition(":")
    if text == "kubernetes" or (kind == "file" and path):
        return SourceRef(kind, path)
    raise BadValueError("allowed: kubernetes, or file:PATH")


def label(text: str) -> str:
    if not _LABEL.fullmatch(text):
        raise BadValueError("allowed: a DNS label of at most 63 characters, such as default")
    return text


def seconds_up_to(most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        short = text.isascii() and text.isdigit() and len(text) <= len(str(most))
        if not (short and 1 <= int(text) <= most):
            raise BadValueError(f"allowed: whole seconds from 1 to {most}")
        return int(text)

    return parse


seconds: Final = seconds_up_to(MAX_SECONDS)


def directory(text: str) -> str:
    if not text.startswith("/") or "\0" in text:
        raise BadValueError("allowed: the absolute path of a directory, such as /var/lib/evenstream")
    return text


def domain(text: str) -> str:
    if not text or len(text) > MAX_DOMAIN or not all(_LABEL.fullmatch(part) for part in text.split(".")):
        raise BadValueError("allowed: a DNS name without a dot at its end, such as cluster.local")
    return text


def quantity(text: str) -> str:
    if not _QUANTITY.fullmatch(text):
        raise BadValueError("allowed: a Kubernetes quantity, such as 50m, 0.5 or 64Mi")
    return text


def quantity_value(text: str) -> Fraction:
    """What a text that `quantity` takes amounts to: cores or bytes. Raises BadValueError for any other."""
    found = _QUANTITY.fullmatch(quantity(text))
    assert found is not None
    return Fraction(found[1]) * _FACTOR[found[2]]


def image(text: str) -> str:
    if not _IMAGE.fullmatch(text):
        raise BadValueError("allowed: an image reference, such as registry.example/evenstream-sidecar:1.0")
    return text
