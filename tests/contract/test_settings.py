"""Every setting: what is taken and what it becomes, what is refused and how, and the ways in."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract import names, settings, values
from contract.settings import BadSettingError, Setting
from contract.values import Address, BadValueError, Listen, ServiceRef, SourceRef

pytestmark = pytest.mark.once

DIGEST = "sha256:" + "0123456789abcdef" * 4
GREETER = ServiceRef("greeter", "", 50051)
ORDERS = ServiceRef("orders", "shop", 7000)

# For each setting, texts that are taken and their values. Each value's own text is taken too, see below.
GOOD: dict[str, dict[str, Any]] = {
    "inject": {"enabled": "enabled", "disabled": "disabled"},
    "capture-mode": {"iptables": "iptables", "hosts": "hosts", "none": "none"},
    "services": {
        "": (),
        " ": (),
        "greeter:50051": (GREETER,),
        "greeter:50051, orders.shop:7000": (GREETER, ORDERS),
        " orders.shop:7000 ,greeter:50051": (ORDERS, GREETER),
        "a-1.b-2:1": (ServiceRef("a-1", "b-2", 1),),
        f"{'s' * 63}.{'n' * 63}:65535": (ServiceRef("s" * 63, "n" * 63, 65535),),
    },
    "exclude-outbound-ports": {"": (), "443": (443,), "1,65535": (1, 65535), " 443 , 8443 ": (443, 8443)},
    "exclude-outbound-cidrs": {
        "": (),
        "10.0.0.0/8": ("10.0.0.0/8",),
        "10.1.2.3": ("10.1.2.3/32",),
        "fd00::/8, 192.168.0.0/16": ("fd00::/8", "192.168.0.0/16"),
        "::/0": ("::/0",),
    },
    "policy": {"least-open-streams": "least-open-streams"},
    "outlier-ejection": {
        "off": values.OutlierEjection(0, 30, 50),
        "on": values.OutlierEjection(5, 30, 50),
        "failures=3": values.OutlierEjection(3, 30, 50),
        "share=90, failures=1000,seconds=3600": values.OutlierEjection(1000, 3600, 90),
    },
    "log-level": {level: level for level in ("debug", "info", "warning", "error")},
    "log-format": {"text": "text", "json": "json"},
    "sidecar-image": {
        image: image
        for image in (
            "evenstream-sidecar",
            "evenstream-sidecar:dev",
            "registry.example/evenstream-sidecar:1.0",
            "registry.example:5000/team/evenstream_sidecar:v1.0.0-rc.1",
            f"registry.example/sidecar@{DIGEST}",
            f"registry.example/sidecar:1.0@{DIGEST}",
        )
    },
    **{
        name: {quantity: quantity for quantity in ("50m", "0.5", "2", "64Mi", "1Gi", "1G", "128000")}
        for name in (
            "sidecar-cpu-request",
            "sidecar-cpu-limit",
            "sidecar-memory-request",
            "sidecar-memory-limit",
        )
    },
    "source": {
        "kubernetes": SourceRef("kubernetes", ""),
        "file:endpoints.json": SourceRef("file", "endpoints.json"),
        "file:/etc/a:b c.json": SourceRef("file", "/etc/a:b c.json"),
    },
    "drain-timeout": {"1": 1, "28": 28, "3600": 3600},
    "state-dir": {"/": "/", "/var/lib/evenstream": "/var/lib/evenstream"},
    "listen": {
        "": (),
        "127.0.0.1:7000=greeter:50051": (Listen(Address("127.0.0.1", 7000), GREETER),),
        "[::1]:7000=orders.shop:7000": (Listen(Address("::1", 7000), ORDERS),),
        "127.0.0.1:1=greeter:50051,127.0.0.2:2=orders.shop:7000": (
            Listen(Address("127.0.0.1", 1), GREETER),
            Listen(Address("127.0.0.2", 2), ORDERS),
        ),
    },
    "capture": {"1": 1, "15001": 15001, "65535": 65535},
    "admin": {
        "127.0.0.1:15020": Address("127.0.0.1", 15020),
        "0.0.0.0:80": Address("0.0.0.0", 80),
        "[::]:15020": Address("::", 15020),
        "[0:0:0:0:0:0:0:1]:15020": Address("::1", 15020),
    },
    "namespace": {"default": "default", "a": "a", "n" * 63: "n" * 63, "0-a": "0-a"},
}

_NO_PORTS = ("", "0", "65536", "-1", "+1", "1.0", "0x50", "8 0", "http", "123456", "\u0661", "1\n")
BAD: dict[str, tuple[str, ...]] = {
    "inject": ("", "yes", "true", "Enabled", "enabled "),
    "capture-mode": ("", "tproxy", "IPTABLES", "iptables,none"),
    "services": (
        ",",
        "greeter",
        "greeter:",
        ":50051",
        ".shop:1",
        "greeter.:1",
        "greeter.shop.svc:1",
        "Greeter:1",
        "-a:1",
        "a-:1",
        "a_b:1",
        "greeter:50051,",
        "greeter:50051 orders:7000",
        f"{'s' * 64}:1",
        *(f"greeter:{port}" for port in _NO_PORTS if port.strip() == port),
    ),
    "exclude-outbound-ports": (
        "443,",
        "443;8443",
        "443 8443",
        *(port for port in _NO_PORTS if port.strip() == port and port),
    ),
    "exclude-outbound-cidrs": ("10.0.0.1/8", "10.0.0.0/33", "fd00::/129", "10.0.0.0/8,", "any", "10.0.0"),
    "policy": ("", "round_robin", "least_request"),
    "log-level": ("", "trace", "INFO", "10"),
    "log-format": ("", "JSON", "logfmt"),
    "sidecar-image": (
        "",
        " ",
        "Sidecar",
        "a b",
        "a:",
        "a:-",
        "a@sha256:12",
        "a:1\n",
        "https://registry.example/a",
        "a:\u00fc",
    ),
    **dict.fromkeys(
        ("sidecar-cpu-request", "sidecar-cpu-limit", "sidecar-memory-request", "sidecar-memory-limit"),
        ("m", "-1", "1 Gi", "1gi", "1KB", "0.5.1", ".5", "1e3x", "50m\n"),
    ),
    "outlier-ejection": (
        *("", "yes", "On", "failures", "failures=", "failures=0", "failures=1001", "share=91", "share=50%"),
        *("seconds=1e2", "failures=3,failures=4", "failures=3,", "time=3", "failures=-1", "seconds=\u0665"),
        "on,share=10",
    ),
    "source": ("", "Kubernetes", "kubernetes:", "file", "file:", "dns:greeter", "/etc/endpoints.json"),
    "drain-timeout": ("", "0", "-1", "1.5", "30s", "123456", "\u0661", "1\n"),
    "state-dir": ("state", "./state", "~/state"),
    "listen": (
        "127.0.0.1:7000",
        "127.0.0.1:7000=",
        "=greeter:50051",
        "127.0.0.1=greeter:50051",
        "localhost:7000=greeter:50051",
        ":7000=greeter:50051",
        "*:7000=greeter:50051",
        "127.0.0.1:7000=greeter",
        "127.0.0.1:7000=greeter:50051,",
        "127.0.0.1:7000==greeter:50051",
    ),
    "capture": tuple(port for port in _NO_PORTS if port),
    "admin": (
        "",
        "15020",
        ":15020",
        "localhost:15020",
        "127.0.0.1",
        "127.0.0.1:0",
        "::1:15020",  # an address of its own
        "[127.0.0.1]:15020",
        "[::1]",
        "127.0.0.256:15020",
        "127.0.0.01:15020",
    ),
    "namespace": ("", "Default", "a.b", "-a", "a-", "n" * 64, "a b"),
}


def _each(chosen: Iterable[Setting]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("setting", list(chosen), ids=lambda setting: setting.name)


ALL = _each(settings.SETTINGS)
ANNOTATED = _each(settings.BY_ANNOTATION.values())
OF_THE_SIDECAR = _each(settings.sidecar_settings())


def _text_of(value: Any) -> str:
    return ",".join(map(str, value)) if type(value) is tuple else str(value)


def test_every_setting_has_examples() -> None:
    assert set(GOOD) == set(BAD) == set(settings.BY_NAME)
    assert len(settings.SETTINGS) == len(settings.BY_NAME)


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in GOOD.items() for text in texts])
def test_a_good_text_becomes_its_value_and_the_values_text_the_same(name: str, text: str) -> None:
    setting, value = settings.BY_NAME[name], GOOD[name][text]
    assert settings.parse(setting, text, "here") == value
    assert settings.parse(setting, _text_of(value), "here") == value


@pytest.mark.parametrize(
    ("name", "text"),
    # An empty text is none at all where there is no default.
    [(name, text) for name, texts in BAD.items() for text in texts if text or settings.BY_NAME[name].default],
)
def test_a_bad_text_is_refused_with_where_it_stood_itself_and_what_is_allowed(name: str, text: str) -> None:
    setting = settings.BY_NAME[name]
    with pytest.raises(BadSettingError) as caught:
        settings.parse(setting, text, "annotation x")
    told = str(caught.value)
    assert told == f"annotation x: {text!r} is not allowed; {caught.value.allowed}"
    assert caught.value.allowed.startswith("allowed: ")
    assert "\n" not in told


@ALL
def test_a_setting_is_told_well(setting: Setting) -> None:
    assert setting.help.endswith(".")
    assert setting.help[0].isupper()
    assert setting.annotation or setting.flag, "there is a way in"
    assert bool(setting.env) == bool(setting.flag)
    if setting.flag:
        assert setting.flag == f"--{setting.name}"
        assert setting.env == names.ENV_PREFIX + setting.name.upper().replace("-", "_")
    if setting.default:
        settings.parse(setting, setting.default, "the default")


@ALL
def test_the_form_shows_the_choices_there_are(setting: Setting) -> None:
    assert setting.form != "VALUE"
    if re.fullmatch(r"[a-z|-]+", setting.form):
        assert set(setting.form.split("|")) == set(GOOD[setting.name])


# Near enough to be wrong in interesting places.
NEARLY = st.text(alphabet="0123456789abz.:=[],/-_%@ \nA\u00e9\u0661\0", max_size=40)
TEXT = st.one_of(NEARLY, st.text(max_size=60), st.sampled_from([t for texts in GOOD.values() for t in texts]))


@ALL
@given(text=TEXT)
def test_any_text_is_taken_or_refused_in_one_line(setting: Setting, text: str) -> None:
    """No parser raises anything else, and what is taken means the same when written again."""
    try:
        value = setting.parse(text)
    except BadValueError as error:
        said = str(error)
    else:
        said = "allowed: this"
        assert setting.parse(_text_of(value)) == value
    assert said.startswith("allowed: ")
    assert "\n" not in said


@given(port=st.integers(1, 65535), name=st.from_regex(r"[a-z]([-a-z0-9]{0,10}[a-z0-9])?", fullmatch=True))
def test_what_is_printed_is_what_is_parsed(port: int, name: str) -> None:
    for ref in (ServiceRef(name, "", port), ServiceRef(name, "n" + name, port)):
        assert values.service(str(ref)) == ref
        for host in ("127.0.0.1", "::1"):
            listen = Listen(Address(host, port), ref)
            assert values.listen(str(listen)) == listen


@pytest.mark.parametrize("parse", [values.services, values.ports, values.cidrs, values.listens])
def test_a_list_has_an_end(parse: Any) -> None:
    """Where it is too long, that is said, not that its items are wrong."""
    item = {
        values.services: "greeter:50051",
        values.ports: "443",
        values.cidrs: "10.0.0.0/8",
        values.listens: "127.0.0.1:7000=greeter:50051",
    }[parse]
    assert len(parse(",".join([item] * values.MAX_LIST_ITEMS))) == values.MAX_LIST_ITEMS
    with pytest.raises(BadValueError, match="allowed: at most 100 items"):
        parse(",".join([item] * (values.MAX_LIST_ITEMS + 1)))


# The ways in -------------------------------------------------------------------------------------------------


def test_a_silent_pod_gets_the_defaults() -> None:
    found = settings.from_annotations({"other.example/inject": "x"})
    assert set(found) == {setting.name for setting in settings.SETTINGS if setting.annotation}
    assert found["inject"] == "disabled"
    assert found["capture-mode"] == "iptables"
    assert found["services"] == ()
    assert found["sidecar-cpu-limit"] is None


@ANNOTATED
def test_an_annotation_is_read(setting: Setting) -> None:
    for text, value in GOOD[setting.name].items():
        assert settings.from_annotations({setting.annotation: text})[setting.name] == value
    bad = next(text for text in BAD[setting.name] if text)
    with pytest.raises(BadSettingError) as caught:
        settings.from_annotations({setting.annotation: bad})
    assert caught.value.where == f"annotation {setting.annotation}"
    assert caught.value.text == bad


@given(word=st.from_regex(r"[a-z-]{1,30}", fullmatch=True))
def test_an_annotation_of_ours_that_does_not_exist_is_refused(word: str) -> None:
    key = names.ANNOTATION_PREFIX + word
    if key in settings.BY_ANNOTATION or key == names.STATUS_ANNOTATION:
        return
    with pytest.raises(BadSettingError) as caught:
        settings.from_annotations({names.INJECT_ANNOTATION: "enabled", key: "x"})
    assert str(caught.value).startswith(f"annotation {key}: 'x' is not allowed; known annotations: ")
    assert names.INJECT_ANNOTATION in str(caught.value)


def test_the_record_of_an_injection_is_no_setting() -> None:
    settings.from_annotations({names.STATUS_ANNOTATION: "{}"})


@OF_THE_SIDECAR
def test_a_flag_beats_the_environment_which_beats_the_default(setting: Setting) -> None:
    texts = [text for text in GOOD[setting.name] if text.strip()]
    first, last = texts[0], texts[-1]

    def found(flags: dict[str, list[str]], environment: dict[str, str]) -> Any:
        return settings.from_flags_and_environment(flags, environment)[setting.name]

    default = settings.parse(setting, setting.default, "the default")
    assert found({}, {}) == default
    assert found({}, {setting.env: ""}) == default, "an empty variable is one that is not set"
    assert found({}, {setting.env: first}) == GOOD[setting.name][first]
    assert found({setting.name: [last]}, {setting.env: first}) == GOOD[setting.name][last]


@OF_THE_SIDECAR
def test_an_error_names_the_flag_or_the_variable(setting: Setting) -> None:
    bad = next(text for text in BAD[setting.name] if text)
    for flags, environment, where in (
        ({setting.name: [bad]}, {}, setting.flag),
        ({}, {setting.env: bad}, setting.env),
    ):
        with pytest.raises(BadSettingError) as caught:
            settings.from_flags_and_environment(flags, environment)
        assert caught.value.where == where


def test_repeated_flags_add_up_and_an_error_shows_the_one_that_is_bad() -> None:
    one, two = "127.0.0.1:1=greeter:50051", "127.0.0.2:2=orders.shop:7000"
    found = settings.from_flags_and_environment({"listen": [one, two]}, {})["listen"]
    assert [str(each) for each in found] == [one, two]
    with pytest.raises(BadSettingError) as caught:
        settings.from_flags_and_environment({"listen": [one, "x", two]}, {})
    assert caught.value.text == "x"
