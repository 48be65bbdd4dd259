"""The conditions of `injector.admission.refusals` and `hosts`, in CEL and in their order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from contract import names
from contract.settings import BY_NAME
from injector.admission import hosts, messages, refusals
from injector.policy.cel import Cel, choice, filled, in_quotes, quoted
from injector.policy.settings import items, variable

ENFORCED: Final = ("baseline", "restricted")
_ENFORCE_LABEL: Final = "pod-security.kubernetes.io/enforce"
_REQUIRED: Final = "object.spec.?affinity.?nodeAffinity.?requiredDuringSchedulingIgnoredDuringExecution"

Reason = tuple[str, Cel]


def variables() -> list[tuple[str, Cel]]:
    """What the conditions look at, and `reason`: the first that holds, or ""."""
    host_mode = 'variables.capture_mode == "hosts"'
    return [
        ("containers", Cel("object.spec.?initContainers.orValue([]) + object.spec.containers")),
        *[
            (
                f"{kind}_budget",
                Cel(
                    f"object.spec.?resources.?requests[?{quoted(kind)}].hasValue() || "
                    f"object.spec.?resources.?limits[?{quoted(kind)}].hasValue()"
                ),
            )
            for kind in ("cpu", "memory")
        ],
        # capture hosts: "greeter.shop:50051" of each, then each Service once, then each port of each once.
        (
            "qualified",
            choice(
                host_mode,
                f"({items(variable('services'))}).map(item, "
                '(item.contains(".") ? item.split(":")[0] : item.split(":")[0] + "." + request.namespace) '
                '+ ":" + string(int(item.split(":")[1])))',
                "[]",
            ),
        ),
        ("service_ports", _each_once("variables.qualified")),
        ("numbers", Cel('variables.qualified.map(item, int(item.split(":")[1]))')),
        ("named", Cel('variables.qualified.map(item, item.split(":")[0])')),
        ("places", _each_once("variables.named")),
        ("host_names", Cel(f"variables.places.map(place, {_host_names('place')})")),
        ("every_host_name", _every_host_name()),
        ("reason", _first([*_all(), *_hosts(host_mode)])),
    ]


def _each_once(listed: str) -> Cel:
    return Cel(f"{listed}.transformList(i, item, {listed}.indexOf(item) == i, item)")


_FULL: Final = '{place} + ".svc"'
_NAME: Final = '{place}.split(".")[0]'
_IS_NEAR: Final = '{place}.split(".")[1] == request.namespace'


def _host_names(place: str) -> str:
    """Place.host_names: the short one for the pod's own namespace only."""
    name, is_near, full = (text.format(place=place) for text in (_NAME, _IS_NEAR, _FULL))
    return f'({is_near} ? [{name}] : []) + [{place}, {full}, {full} + "." + variables.cluster_domain]'


def _every_host_name() -> Cel:
    """Of all places, in one list: looking through a list of lists costs the API server too much."""
    name, is_near, full = (text.format(place="place") for text in (_NAME, _IS_NEAR, _FULL))
    return Cel(
        f"variables.places.filter(place, {is_near}).map(place, {name}) + variables.places + "
        f"variables.places.map(place, {full}) + "
        f'variables.places.map(place, {full} + "." + variables.cluster_domain)'
    )


def address(index: str) -> str:
    """Place.address. A list has at most 100 Services, so the third number stays 0."""
    return f'"{hosts.NETWORK}.0." + string({index} + 1)'


def _first(reasons: list[Reason]) -> Cel:
    found = Cel('""')
    for condition, said in reversed(reasons):
        found = choice(condition, said, found)
    return found


def _all() -> Iterator[Reason]:
    yield 'variables.wrong_annotation != ""', Cel("variables.wrong_annotation")
    yield f"{quoted(refusals.MIRROR_ANNOTATION)} in variables.annotations", quoted(messages.MIRROR)
    yield "object.spec.?hostNetwork.orValue(false)", quoted(messages.HOST_NETWORK)
    yield _windows(), quoted(messages.WINDOWS)
    level = f'namespaceObject.metadata.?labels[?{quoted(_ENFORCE_LABEL)}].orValue("")'
    enforced = f"{level} in [{', '.join(map(quoted, ENFORCED))}]"
    yield f'{enforced} && variables.capture_mode == "iptables"', quoted(messages.RESTRICTED)
    yield from _resources()
    for name in refusals.OUR_CONTAINERS:
        yield (
            f"variables.containers.exists(c, c.name == {quoted(name)})",
            quoted(messages.CONTAINER_NAME.format(container=repr(name))),
        )
    for name in refusals.OUR_VOLUMES:
        yield (
            f"object.spec.?volumes.orValue([]).exists(v, v.name == {quoted(name)})",
            quoted(messages.VOLUME_NAME.format(volume=repr(name))),
        )
    user = "c.?securityContext.?runAsUser.orValue(object.spec.?securityContext.?runAsUser.orValue(0))"
    ours = f"c, {user} == {names.SIDECAR_UID}"
    yield f"variables.containers.exists({ours})", filled(messages.USER, container=_container(ours))
    taken = (
        f"{_tcp('p')} && (p.containerPort == {names.ADMIN_PORT} || "
        f'(p.containerPort == {names.CAPTURE_PORT} && variables.capture_mode == "iptables"))'
    )
    yield _port_reason(taken, messages.PORT)


def _resources() -> Iterator[Reason]:
    for kind in ("cpu", "memory"):
        request, limit = (variable(f"sidecar-{kind}-{bound}") for bound in ("request", "limit"))
        said = filled(
            messages.LIMIT_BELOW_REQUEST,
            annotation=BY_NAME[f"sidecar-{kind}-limit"].annotation,
            value=in_quotes(limit),
            kind=kind,
            request=Cel(request),
            other=BY_NAME[f"sidecar-{kind}-request"].annotation,
        )
        yield f'{limit} != "" && quantity({limit}).isLessThan(quantity({request}))', said
    for kind in ("cpu", "memory"):
        for bound in ("request", "limit"):
            annotation = BY_NAME[f"sidecar-{kind}-{bound}"].annotation
            value = in_quotes(f"variables.annotations[{quoted(annotation)}]")
            yield (
                f"variables.{kind}_budget && {quoted(annotation)} in variables.annotations",
                filled(messages.BESIDE_A_BUDGET, annotation=annotation, value=value, kind=kind),
            )


def _hosts(host_mode: str) -> Iterator[Reason]:
    yield f"{host_mode} && variables.qualified.size() == 0", quoted(messages.NO_SERVICES)
    wrong = (
        f'item, int(item.split(":")[1]) < {hosts.FIRST_UNPRIVILEGED_PORT} '
        f'|| int(item.split(":")[1]) == {names.ADMIN_PORT}'
    )
    given = f"({items(variable('services'))})"
    yield (
        f"{host_mode} && {given}.exists({wrong})",
        filled(
            messages.SERVICE_PORT,
            service=in_quotes(f"{given}.filter({wrong})[0]"),
            first=str(hosts.FIRST_UNPRIVILEGED_PORT),
        ),
    )
    wanted = "p.containerPort in variables.numbers"
    place = 'variables.qualified[variables.numbers.indexOf(p.containerPort)].split(":")[0]'
    yield _port_reason(f"{host_mode} && {_tcp('p')} && {wanted}", messages.LISTENS_ITSELF, place=place)
    ours = "name, name in variables.every_host_name"
    having = f"a, a.?hostnames.orValue([]).exists({ours})"
    aliases = "object.spec.?hostAliases.orValue([])"
    yield (
        f"{host_mode} && {aliases}.exists({having})",
        filled(
            messages.HOST_ALIAS, name=in_quotes(f"{aliases}.filter({having})[0].hostnames.filter({ours})[0]")
        ),
    )
    mounts = f"c, c.?volumeMounts.orValue([]).exists(m, m.mountPath == {quoted(hosts.HOSTS_FILE)})"
    yield (
        f"{host_mode} && variables.containers.exists({mounts})",
        filled(messages.HOSTS_FILE, container=_container(mounts), file=hosts.HOSTS_FILE),
    )


def _tcp(port: str) -> str:
    return f'{port}.?protocol.orValue("TCP") == "TCP"'


def _container(condition: str) -> Cel:
    return in_quotes(f"variables.containers.filter({condition})[0].name")


def _port_reason(condition: str, template: str, **more: str) -> Reason:
    """A container port `p` for which the condition holds, and whose it is."""
    having = f"c, c.?ports.orValue([]).exists(p, {condition})"
    container = f"variables.containers.filter({having})[0]"
    found = f"{container}.ports.filter(p, {condition})"
    parts = {key: Cel(f"{found}.map(p, {expression})[0]") for key, expression in more.items()}
    port = Cel(f"string({found}[0].containerPort)")
    said = filled(template, container=in_quotes(f"{container}.name"), port=port, **parts)
    return f"variables.containers.exists({having})", said


def _windows() -> str:
    labels = ", ".join(map(quoted, refusals.OS_LABELS))
    selected = f'[{labels}].exists(l, object.spec.?nodeSelector[?l].orValue("") == "windows")'
    rule = f'e.key in [{labels}] && e.operator == "In" && e.?values.orValue([]) == ["windows"]'
    terms = f"{_REQUIRED}.?nodeSelectorTerms.orValue([])"
    affine = f"{terms}.size() > 0 && {terms}.all(t, t.?matchExpressions.orValue([]).exists(e, {rule}))"
    return f'object.spec.?os.?name.orValue("") == "windows" || {selected} || ({affine})'
