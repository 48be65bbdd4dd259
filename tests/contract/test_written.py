"""One version of injector works with the sidecars of the version before and after: written/README.md."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from contract import names, settings
from injector.admission.decision import Options, decide, inject
from injector.admission.removal import uninject
from sidecar import gate
from sidecar.admin.server import ROUTES
from sidecar.capture.__main__ import parse_arguments

pytestmark = pytest.mark.once

HERE = Path(__file__).parent / "written"
CURRENT = f"{names.VERSION}.yaml"
FILES = sorted(path.name for path in HERE.glob("*.yaml"))
IMAGE = "evenstream-sidecar:golden"
NAMESPACE = "shop"

Json = dict[str, Any]


def _asking(**annotations: str) -> Json:
    asked = {"inject": "enabled", **{key.replace("_", "-"): text for key, text in annotations.items()}}
    return {
        "metadata": {"annotations": {names.ANNOTATION_PREFIX + key: text for key, text in asked.items()}},
        "spec": {"containers": [{"name": "client", "image": "client:1"}]},
    }


def _now() -> list[Json]:
    """What this injector makes of pods that between them use all it can write."""
    every = _asking(
        services="greeter:50051, orders.billing:7000",
        exclude_outbound_ports="5432, 6379",
        exclude_outbound_cidrs="10.0.0.0/8, fd00::/8",
        policy="least-open-streams",
        outlier_ejection="failures=3, share=30",
        log_level="debug",
        log_format="json",
    )
    every["spec"]["terminationGracePeriodSeconds"] = 300
    hosts = _asking(capture="hosts", services="greeter:50051, orders.billing:7000, greeter:50052")
    pods = [(pod, True) for pod in (_asking(), every, hosts, _asking(capture="none"))]
    return [
        inject(pod, decide(pod, Options(IMAGE, names.VERSION, native_sidecars=native), NAMESPACE))
        for pod, native in [*pods, (_asking(), False)]
    ]


def _read(name: str) -> list[Json]:
    return list(yaml.safe_load_all((HERE / name).read_text()))


def test_this_injector_writes_what_is_recorded_for_its_version() -> None:
    if os.environ.get("EVENSTREAM_UPDATE_GOLDEN"):
        (HERE / CURRENT).write_text(yaml.safe_dump_all(_now(), sort_keys=False, width=120))
    assert _read(CURRENT) == _now(), "a wanted change? written/README.md says what to do"


def test_every_variable_of_the_sidecar_is_among_them() -> None:
    written = {variable["name"] for pod in _now() for variable in _ours(pod)["env"]}
    assert written == {setting.env for setting in settings.sidecar_settings()}


def test_what_earlier_versions_wrote_is_frozen() -> None:
    frozen = dict(reversed(line.split()) for line in (HERE / "FROZEN").read_text().splitlines())
    assert sorted([*frozen, CURRENT]) == FILES
    assert len(FILES) >= 2
    for name, digest in frozen.items():
        assert hashlib.sha256((HERE / name).read_bytes()).hexdigest() == digest, name


# What became of it -------------------------------------------------------------------------------------------


def _containers(pod: Json) -> Iterator[Json]:
    yield from pod["spec"].get("initContainers", ())
    yield from pod["spec"]["containers"]


def _ours(pod: Json, name: str = names.SIDECAR_CONTAINER) -> Json:
    return next(each for each in _containers(pod) if each["name"] == name)


EVERY = [
    pytest.param(pod, id=f"{name.removesuffix('.yaml')}-{number}")
    for name in FILES
    for number, pod in enumerate(_read(name))
]


@pytest.mark.parametrize("pod", EVERY)
def test_this_sidecar_reads_it(pod: Json) -> None:
    environment = {each["name"]: each.get("value", NAMESPACE) for each in _ours(pod)["env"]}
    found = settings.from_flags_and_environment({}, environment)
    assert settings.unknown_variables(environment) == []
    assert found["namespace"] == NAMESPACE
    assert found["source"].kind == "kubernetes"
    annotations = pod["metadata"]["annotations"]
    for setting in settings.sidecar_settings():
        text = annotations.get(setting.annotation) if setting.annotation else None
        if text is not None:
            assert found[setting.name] == setting.parse(text), "the sidecar does what the pod asked for"
    capture = annotations.get(names.ANNOTATION_PREFIX + "capture", "iptables")
    assert found["capture"] == (names.CAPTURE_PORT if capture == "iptables" else None)
    assert bool(found["listen"]) == (capture == "hosts")


@pytest.mark.parametrize("pod", EVERY)
def test_its_probes_and_ports_are_this_sidecars(pod: Json) -> None:
    ours = _ours(pod)
    environment = {each["name"]: each.get("value", NAMESPACE) for each in ours["env"]}
    admin = settings.from_flags_and_environment({}, environment)["admin"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = ours[probe]["httpGet"]
        assert asked["port"] == admin.port == names.ADMIN_PORT
        assert ROUTES[asked["path"]].public
    assert [port["containerPort"] for port in ours["ports"]] == [names.ADMIN_PORT]
    mounts = {mount["name"]: mount["mountPath"] for mount in ours["volumeMounts"]}
    assert mounts[names.TOKEN_VOLUME] == names.SERVICE_ACCOUNT_DIR
    assert mounts.get(names.STATE_VOLUME) == environment.get(settings.BY_NAME["state-dir"].env)


@pytest.mark.parametrize(
    "pod",
    [each for each in EVERY if any(c["name"] == names.INIT_CONTAINER for c in _containers(each.values[0]))],
)
def test_this_images_rules_take_its_arguments(pod: Json) -> None:
    ours = _ours(pod, names.INIT_CONTAINER)
    assert ours["command"] == ["python3", "-m", "sidecar.capture"]
    rules, dry_run, _ = parse_arguments(ours.get("args", []), {})
    annotations = pod["metadata"]["annotations"]
    for found, name in ((rules.excluded_ports, "ports"), (rules.excluded_networks, "cidrs")):
        setting = settings.BY_NAME[f"exclude-outbound-{name}"]
        assert tuple(found) == setting.parse(annotations.get(setting.annotation, ""))
    assert (rules.to_port, rules.exempt_uid, dry_run) == (
        names.CAPTURE_PORT,
        _ours(pod)["securityContext"]["runAsUser"],
        False,
    )


def test_this_images_gate_takes_its_arguments() -> None:
    """A plain sidecar's, in clusters before 1.29."""
    gates = [handler for pod in _read(CURRENT) for handler in _ours(pod).get("lifecycle", {}).values()]
    assert len(gates) == 2
    for handler in gates:
        program, *arguments = handler["exec"]["command"][2:]
        assert program == "sidecar.gate"
        gate.parser().parse_args(arguments)


@pytest.mark.parametrize("pod", EVERY)
def test_this_injector_leaves_it_and_takes_it_out_again(pod: Json) -> None:
    again = decide(pod, Options("evenstream-sidecar:next", "next"), NAMESPACE)
    assert (again.patch, again.warnings, again.reason) == ((), (), "injected already")
    before = uninject(pod, disable=False)
    assert "evenstream-" not in yaml.safe_dump(before["spec"])
    assert names.SIDECAR_CONTAINER not in {each["name"] for each in _containers(before)}
    assert names.STATUS_ANNOTATION not in before["metadata"]["annotations"]


# The other way round: a sidecar older than the injector ------------------------------------------------------


def test_what_a_newer_injector_writes_beside_is_ignored_and_told() -> None:
    newer = {"EVENSTREAM_RETRIES": "3", "EVENSTREAM_LOG_LEVEL": "debug", "EVENSTREAM_BUILD": "compiled"}
    assert settings.from_flags_and_environment({}, newer)["log-level"] == "debug"
    assert settings.unknown_variables(newer, ["EVENSTREAM_BUILD"]) == ["EVENSTREAM_RETRIES"]


def test_the_kubelets_variables_of_a_service_named_as_we_are_are_no_mistake() -> None:
    links = ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_80_TCP", "PORT_80_TCP_ADDR")
    for prefix in ("EVENSTREAM_", "EVENSTREAM_DEMO_"):
        assert settings.unknown_variables({prefix + link: "x" for link in links}) == []
