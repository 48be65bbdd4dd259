"""The one table of everything a user can set, and the three ways in: annotation, environment, flag.

Each `Setting` gives its annotation, environment variable, flag, parser, default and help. The
injector reads the annotations and writes the environment; the sidecar reads environment and flags;
docs/reference/settings.md is generated from here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from contract import logs, names, values


class Setting(NamedTuple):
    """One thing a user can set. Empty `annotation`, `env` or `flag`: not to be had that way."""

    name: str
    annotation: str
    env: str
    flag: str
    parse: Callable[[str], Any]
    default: str
    help: str
    repeatable: bool = False  # the flag may be given several times; its value is a tuple
    form: str = "VALUE"  # what a value looks like, as a usage line has it: a|b, ADDRESS:PORT


class BadSettingError(ValueError):
    """One clear line: where the text stood, the text, and what is allowed."""

    def __init__(self, where: str, text: str, allowed: str) -> None:
        super().__init__(f"{where}: {text!r} is not allowed; {allowed}")
        self.where = where
        self.text = text
        self.allowed = allowed


def _setting(
    name: str,
    parse: Callable[[str], Any],
    default: str,
    text: str,
    *,
    annotation: bool = False,
    sidecar: bool = False,
    repeatable: bool = False,
    form: str = "VALUE",
) -> Setting:
    return Setting(
        name=name,
        annotation=names.ANNOTATION_PREFIX + name if annotation else "",
        env=names.ENV_PREFIX + name.upper().replace("-", "_") if sidecar else "",
        flag="--" + name if sidecar else "",
        parse=parse,
        default=default,
        help=text,
        repeatable=repeatable,
        form=form,
    )


def _quantity(name: str, default: str, text: str) -> Setting:
    return _setting(name, values.quantity, default, text, annotation=True, form="QUANTITY")


SETTINGS: Final[tuple[Setting, ...]] = (
    _setting(
        "inject",
        values.one_of("enabled", "disabled"),
        "disabled",
        "Whether the pod gets the sidecar.",
        annotation=True,
        form="enabled|disabled",
    ),
    Setting(
        name="capture-mode",
        annotation=names.ANNOTATION_PREFIX + "capture",
        env="",
        flag="",
        parse=values.one_of("iptables", "hosts", "none"),
        default="iptables",
        help="How the pod's outbound connections reach the sidecar: iptables redirects them, hosts gives "
        "each Service named in `services` a loopback address of its own and needs no privilege, none leaves it "
        "to the application.",
        form="iptables|hosts|none",
    ),
    _setting(
        "services",
        values.services,
        "",
        "Services whose endpoints are watched from the start: NAME:PORT or NAME.NAMESPACE:PORT, separated by "
        "commas. Others are found when they are first called.",
        annotation=True,
        sidecar=True,
        form="SERVICES",
    ),
    _setting(
        "exclude-outbound-ports",
        values.ports,
        "",
        "Destination ports that are never redirected, separated by commas.",
        annotation=True,
        form="PORTS",
    ),
    _setting(
        "exclude-outbound-cidrs",
        values.cidrs,
        "",
        "Destination networks that are never redirected, separated by commas.",
        annotation=True,
        form="CIDRS",
    ),
    _setting(
        "policy",
        values.one_of("least-open-streams"),
        "least-open-streams",
        "How a stream's endpoint is picked.",
        annotation=True,
        sidecar=True,
        form="least-open-streams",
    ),
    _setting(
        "outlier-ejection",
        values.outlier_ejection,
        "off",
        "Whether an endpoint whose calls keep failing (UNAVAILABLE, reset, connection lost) is to rest for a "
        f"while: off, on, or any of {values.DEFAULT_EJECTION}, which are the defaults. Failures in a row; "
        "seconds the first time, longer each further time; never more than this share, in percent, at once.",
        annotation=True,
        sidecar=True,
        form="off|on|failures=N,...",
    ),
    _setting(
        "log-level",
        values.one_of("debug", "info", "warning", "error"),
        "info",
        "The least severe messages that are logged.",
        annotation=True,
        sidecar=True,
        form="debug|info|warning|error",
    ),
    _setting(
        "log-format",
        values.one_of(*logs.FORMATS),
        "text",
        "How messages are logged: text for people, or json, one object a line.",
        annotation=True,
        sidecar=True,
        form="text|json",
    ),
    _setting(
        "sidecar-image",
        values.image,
        names.DEFAULT_SIDECAR_IMAGE,
        "The sidecar's image.",
        annotation=True,
        form="IMAGE",
    ),
    _quantity("sidecar-cpu-request", "20m", "The sidecar's CPU request."),
    _quantity("sidecar-cpu-limit", "", "The sidecar's CPU limit; none if unset."),
    _quantity("sidecar-memory-request", "40Mi", "The sidecar's memory request."),
    _quantity("sidecar-memory-limit", "192Mi", "The sidecar's memory limit."),
    _setting(
        "source",
        values.source,
        "kubernetes",
        "Where endpoints come from: the API server of the cluster this pod is in, or a JSON file of Services and "
        "EndpointSlices, as kubectl get svc,endpointslices -o json prints them, followed as it changes.",
        sidecar=True,
        form="kubernetes|file:PATH",
    ),
    _setting(
        "state-dir",
        values.directory,
        "",
        "Where what is known of endpoints is kept, so that a sidecar that restarts while the API server is "
        f"away still knows it ({names.STATE_DIR} in a pod); not kept if unset.",
        sidecar=True,
        form="DIRECTORY",
    ),
    _setting(
        "drain-timeout",
        values.seconds,
        "28",
        "Seconds after SIGTERM that streams have to end; then they are cut. In a pod 2 s less than its "
        "terminationGracePeriodSeconds.",
        sidecar=True,
        form="SECONDS",
    ),
    _setting(
        "listen",
        values.listens,
        "",
        "An address to listen on for one Service port, such as 127.0.0.1:7000=greeter.shop:50051. May be "
        "repeated.",
        sidecar=True,
        repeatable=True,
        form="ADDRESS:PORT=SERVICE:PORT",
    ),
    _setting(
        "capture",
        values.port,
        "",
        f"The port that redirected connections arrive at ({names.CAPTURE_PORT} in a pod); no capture if unset.",
        sidecar=True,
        form="PORT",
    ),
    _setting(
        "admin",
        values.address,
        f"127.0.0.1:{names.ADMIN_PORT}",
        "Where /livez, /readyz, /metrics, /status and the status page are served. Off the loopback only the first "
        "three answer.",
        sidecar=True,
        form="ADDRESS:PORT",
    ),
    _setting(
        "namespace",
        values.label,
        "default",
        "The namespace of Services named without one: the pod's own.",
        sidecar=True,
        form="NAME",
    ),
)

BY_NAME: Final[Mapping[str, Setting]] = {setting.name: setting for setting in SETTINGS}
BY_ANNOTATION: Final[Mapping[str, Setting]] = {s.annotation: s for s in SETTINGS if s.annotation}


def parse(setting: Setting, text: str, where: str) -> Any:
    """The value of `text`, or BadSettingError naming `where` it stood. Empty text with an empty default: None."""
    if not text and not setting.default:
        return setting.parse(text) if setting.parse in _EMPTY_IS_A_VALUE else None
    try:
        return setting.parse(text)
    except values.BadValueError as error:
        raise BadSettingError(where, text, str(error)) from None


_EMPTY_IS_A_VALUE: Final = (values.services, values.ports, values.cidrs, values.listens)


def from_annotations(annotations: Mapping[str, str]) -> dict[str, Any]:
    """Every annotation setting by name, defaults where the pod is silent.

    Raises BadSettingError for a value that is not allowed and for an `evenstream.dev/` annotation that
    does not exist (a typing mistake would otherwise be ignored in silence).
    """
    for key, text in annotations.items():
        if (
            key.startswith(names.ANNOTATION_PREFIX)
            and key not in BY_ANNOTATION
            and key != names.STATUS_ANNOTATION
        ):
            known = ", ".join(sorted(BY_ANNOTATION))
            raise BadSettingError("annotation " + key, text, f"known annotations: {known}")
    return {
        setting.name: parse(setting, annotations.get(key, setting.default), "annotation " + key)
        for key, setting in BY_ANNOTATION.items()
    }


def sidecar_settings() -> Iterable[Setting]:
    return (setting for setting in SETTINGS if setting.flag)


def from_flags_and_environment(
    flags: Mapping[str, Sequence[str]], environment: Mapping[str, str]
) -> dict[str, Any]:
    """The sidecar's settings by name: a flag beats the environment, which beats the default.

    `flags` maps a setting's name to the texts given for it. Raises BadSettingError.
    """
    found: dict[str, Any] = {}
    for setting in sidecar_settings():
        given = flags.get(setting.name) or ()
        if setting.repeatable and given:
            # One by one, so that an error shows the one that is bad.
            found[setting.name] = tuple(v for text in given for v in parse(setting, text, setting.flag))
        elif given:
            found[setting.name] = parse(setting, given[-1], setting.flag)
        else:
            found[setting.name] = parse(setting, environment.get(setting.env) or setting.default, setting.env)
    return found


# What the kubelet tells every container of a Service in its namespace whose name begins with "evenstream".
_OF_A_SERVICE: Final = re.compile(r".*_(SERVICE_HOST|(SERVICE_)?PORT(_.*)?)")


def unknown_variables(environment: Mapping[str, str], others: Iterable[str] = ()) -> list[str]:
    """The EVENSTREAM_* variables that are no setting of this version, nor among `others`: those of a newer
    injector, or typing mistakes. Never an error: the sidecar goes on with its own default for what it does not know."""
    known = {*others, *(setting.env for setting in sidecar_settings())}
    return sorted(
        name
        for name in environment
        if name.startswith(names.ENV_PREFIX) and name not in known and not _OF_A_SERVICE.fullmatch(name)
    )
