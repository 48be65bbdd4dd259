"""The policy objects: one that injects, one that warns, and their bindings.

What an installation sets stands in two variables of their own, default_image and cluster_domain. A ConfigMap
as the policies' parameters would be nicer, but an API server of 1.34 that has once seen the last policy with
such parameters go does not find them again until it restarts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from contract import names, settings
from contract.values import MAX_SECONDS
from injector.admission import containers, decision, messages, refusals
from injector.admission.decision import Options
from injector.policy import reasons
from injector.policy import settings as texts
from injector.policy.cel import Cel, Maybe, choice, filled, literal, quoted

NAME: Final = "evenstream"
WARNINGS: Final = "evenstream-warnings"
GROUP: Final = "admissionregistration.k8s.io"
NOT_RUN: Final = (
    "the API server did not run the MutatingAdmissionPolicy; it has them from 1.36, and in 1.34 and 1.35 with the "
    "feature gate MutatingAdmissionPolicy"
)

Json = dict[str, Any]


def objects(options: Options, version: str) -> list[Json]:
    """`version`: of the mutating kinds, v1beta1 or v1. The others are v1, as Kubernetes has them since 1.30."""
    labels = {"app.kubernetes.io/part-of": "evenstream"}
    common = {
        "matchConstraints": {
            "resourceRules": [
                {
                    "apiGroups": [""],
                    "apiVersions": ["v1"],
                    "operations": ["CREATE"],
                    "resources": ["pods"],
                    "scope": "*",  # the default; without it kubectl takes each apply for a change
                }
            ],
            "namespaceSelector": {
                "matchExpressions": [
                    {
                        "key": "kubernetes.io/metadata.name",
                        "operator": "NotIn",
                        "values": ["kube-system", names.SYSTEM_NAMESPACE],
                    }
                ]
            },
        },
        "matchConditions": [{"name": "asks-for-the-sidecar", "expression": _asks()}],
        # A policy that fails must not stop a rollout: the pod starts without the sidecar.
        "failurePolicy": "Ignore",
        "variables": [{"name": name, "expression": str(text)} for name, text in _variables(options)],
    }
    mutation = {"patchType": "JSONPatch", "jsonPatch": {"expression": _patch()}}
    validation = {"expression": "variables.injected", "messageExpression": _warning()}

    def thing(kind: str, api: str, name: str, **more: Any) -> Json:
        return {
            "apiVersion": f"{GROUP}/{api}",
            "kind": kind,
            "metadata": {"name": name, "labels": labels},
            **more,
        }

    return [
        thing(
            *("MutatingAdmissionPolicy", version, NAME),
            spec={**common, "reinvocationPolicy": "IfNeeded", "mutations": [mutation]},
        ),
        thing("MutatingAdmissionPolicyBinding", version, NAME, spec={"policyName": NAME}),
        thing("ValidatingAdmissionPolicy", "v1", WARNINGS, spec={**common, "validations": [validation]}),
        thing(
            *("ValidatingAdmissionPolicyBinding", "v1", WARNINGS),
            spec={"policyName": WARNINGS, "validationActions": ["Warn"]},
        ),
    ]


def _asks() -> str:
    annotation = quoted(names.INJECT_ANNOTATION)
    return (
        f"has(object.metadata.annotations) && {annotation} in object.metadata.annotations "
        f'&& object.metadata.annotations[{annotation}] != "disabled"'
    )


def _variables(options: Options) -> list[tuple[str, Cel]]:
    known = ", ".join(map(quoted, [*settings.BY_ANNOTATION, names.STATUS_ANNOTATION]))
    prefix = quoted(names.ANNOTATION_PREFIX)
    named = f"c.name == {quoted(names.SIDECAR_CONTAINER)}"
    image = settings.BY_NAME["sidecar-image"].annotation
    return [
        ("annotations", Cel("object.metadata.?annotations.orValue({})")),
        (
            "injected",
            Cel(
                f"{quoted(names.STATUS_ANNOTATION)} in variables.annotations && "
                f"(object.spec.?initContainers.orValue([]) + object.spec.containers).exists(c, {named})"
            ),
        ),
        ("default_image", quoted(options.sidecar_image)),
        ("cluster_domain", quoted(options.cluster_domain)),
        (
            "unknown_annotations",
            Cel(f"variables.annotations.map(k, k).filter(k, k.startsWith({prefix}) && !(k in [{known}]))"),
        ),
        *texts.variables(),
        (
            "image",
            choice(
                f"{quoted(image)} in variables.annotations",
                texts.variable("sidecar-image"),
                "variables.default_image",
            ),
        ),
        *reasons.variables(),
        ("status", _status(options)),
        ("too_large", _too_large()),
    ]


def _warning() -> str:
    reason = choice(
        'variables.reason != ""',
        "variables.reason",
        choice('variables.too_large != ""', "variables.too_large", quoted(NOT_RUN)),
    )
    return str(filled(messages.LEFT_OUT, reason=reason))


def _status(options: Options) -> Cel:
    """decision's record: the same text with the image put in."""

    def record(capture: str) -> Cel:
        text = decision.record(options.version, capture, _HOLE)
        before, after = text.split(_HOLE)
        return Cel(f"{quoted(before)} + variables.image + {quoted(after)}")

    found = record("iptables")
    for capture in ("hosts", "none"):
        found = choice(f"variables.capture_mode == {quoted(capture)}", record(capture), found)
    return found


_HOLE: Final = "IMAGE-GOES-HERE"


def _too_large() -> Cel:
    size = (
        "variables.annotations.map(k, size(bytes(k)) + size(bytes(variables.annotations[k]))).sum() + "
        f"size(bytes(variables.status)) + {len(names.STATUS_ANNOTATION)}"
    )
    said = filled(
        messages.ANNOTATION_BYTES,
        annotations=names.STATUS_ANNOTATION,
        size=Cel(f"string({size})"),
        most=str(refusals.MAX_ANNOTATION_BYTES),
    )
    return choice(f"{size} > {refusals.MAX_ANNOTATION_BYTES}", said, '""')


def _patch() -> str:
    """The operations of decision's patch in their order. A list is put in empty and then filled: an operation
    whose value is a list of structures makes an API server of 1.34 panic."""
    first = "/spec/initContainers/0"
    operations = [
        _list_there("initContainers"),
        _when('variables.capture_mode == "iptables"', _add(first, _init())),
        f"[{_add(first, _sidecar())}]",
        _list_there("volumes"),
        *(
            f"[{_add('/spec/volumes/-', literal(volume, 'Object.spec.volumes'))}]"
            for volume in (containers.token_volume(), containers.state_volume())
        ),
        f"({choice('variables.places.size() > 0', _list_there('hostAliases'), '[]')})",
        "variables.places.transformList(i, place, " + _add("/spec/hostAliases/-", _alias("i")) + ")",
        f"[{_add(_pointer('/metadata/annotations', names.STATUS_ANNOTATION), 'variables.status')}]",
    ]
    wanted = 'variables.injected || variables.reason != "" || variables.too_large != ""'
    return str(choice(wanted, "[]", " + ".join(operations)))


def _list_there(key: str) -> str:
    missing = f"!has(object.spec.{key}) || object.spec.{key}.size() == 0"
    return _when(missing, _add(f"/spec/{key}", "[]"))


def _when(condition: str, operation: str) -> str:
    return f"({choice(condition, f'[{operation}]', '[]')})"


def _add(path: str, value: str) -> str:
    return f'JSONPatch{{op: "add", path: {quoted(path)}, value: {value}}}'


def _pointer(path: str, key: str) -> str:
    return f"{path}/{key.replace('~', '~0').replace('/', '~1')}"


def _alias(index: str) -> str:
    value = {"ip": Cel(reasons.address(index)), "hostnames": Cel(f"variables.host_names[{index}]")}
    return literal(value, "Object.spec.hostAliases")


_LOCALHOST: Final = {"securityContext": {"appArmorProfile": {"type": "Localhost"}}}


def _sidecar() -> str:
    plain = containers.sidecar({}, _values("none"), {}, Cel("variables.image"))
    confined = containers.sidecar({}, _values("none"), _LOCALHOST, Cel("variables.image"))
    return _container({**plain, "env": _environment()}, confined)


# Of capture_init's arguments: how the parsers' values come out as text.
_WRITTEN: Final = {
    "exclude-outbound-ports": "string(int(item))",
    "exclude-outbound-cidrs": (
        'isCIDR(item) ? string(cidr(item)) : string(ip(item)) + (ip(item).family() == 4 ? "/32" : "/128")'
    ),
}


def _init() -> str:
    plain = containers.capture_init(_values("iptables"), {}, Cel("variables.image"))
    confined = containers.capture_init(_values("iptables"), _LOCALHOST, Cel("variables.image"))
    arguments = []
    for name, written in _WRITTEN.items():
        given = f"({texts.items(texts.variable(name))})"
        listed = Cel(f'{quoted(f"--{name}=")} + {given}.map(item, {written}).join(",")')
        arguments.append(Maybe(Cel(f"{given}.size() > 0"), listed))
    return _container({**plain, "args": arguments}, confined)


def _container(plain: Json, confined: Json) -> str:
    """With what depends on the pod: figures where it has no budget, and our AppArmor profile beside its own."""
    profile = 'object.spec.?securityContext.?appArmorProfile.?type.orValue("") == "Localhost"'
    security = {
        key: value if key in plain["securityContext"] else Maybe(Cel(profile), value)
        for key, value in confined["securityContext"].items()
    }
    return literal(
        {**plain, "resources": _resources(), "securityContext": security}, "Object.spec.initContainers"
    )


def _resources() -> Json:
    found: Json = {}
    for bound in ("request", "limit"):
        figures = found[f"{bound}s"] = {}
        for kind in ("cpu", "memory"):
            text = texts.variable(f"sidecar-{kind}-{bound}")
            figures[kind] = Maybe(Cel(f'!variables.{kind}_budget && {text} != ""'), Cel(text))
    return found


def _values(capture: str) -> Mapping[str, Any]:
    """What the parsers make of a pod that says nothing else; figures and lists are put in by others here."""
    return {**settings.from_annotations({}), "capture-mode": capture}


def _environment() -> list[Any]:
    """containers.environment, of which each variable stands under the condition that it has there."""
    # Each Service's ports together, as hosts.listens has them.
    listen = (
        "variables.places.transformList(i, place, variables.service_ports"
        f'.filter(item, item.startsWith(place + ":")).map(item, {reasons.address("i")} + ":" + item.split(":")[1] '
        '+ "=" + item).join(",")).join(",")'
    )
    grace = f"object.spec.?terminationGracePeriodSeconds.orValue({containers.DEFAULT_GRACE_SECONDS})"
    longest = f"{grace} - {containers.DRAIN_MARGIN_SECONDS}"
    given = {s.annotation: s for s in settings.BY_ANNOTATION.values() if s.env}
    all_of_them = containers.environment(
        {annotation: Cel(texts.variable(s.name)) for annotation, s in given.items()},
        _values("iptables"),
        Cel(listen),
        Cel(f"string({longest} > {MAX_SECONDS} ? {MAX_SECONDS} : {longest})"),
    )
    always = {one["name"] for one in containers.environment({}, _values("none"))}
    conditions = {
        settings.BY_NAME["capture"].env: 'variables.capture_mode == "iptables"',
        settings.BY_NAME["listen"].env: "variables.places.size() > 0",
        settings.BY_NAME[
            "drain-timeout"
        ].env: f"{longest} > 0 && {grace} != {containers.DEFAULT_GRACE_SECONDS}",
        **{s.env: f"{quoted(annotation)} in variables.annotations" for annotation, s in given.items()},
    }
    return [one if one["name"] in always else Maybe(Cel(conditions[one["name"]]), one) for one in all_of_them]
