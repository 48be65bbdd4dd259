"""Pods by chance from the API's own schema (OpenAPI v3), and the API server's help in making them valid.

The schema gives fields, types and enumerations; what else must hold stands in the API server's code alone.
So it is asked: it names each field that it refuses, that field is left out, and it is asked again.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from hypothesis import strategies as st

REF: Final = "#/components/schemas/"
CORE: Final = "io.k8s.api.core.v1."
# Deep things are rare in pods and rarely valid by chance.
MAX_DEPTH: Final = 7
# Most pods are refused a few times, for one reason after another.
MAX_REPAIRS: Final = 25

Json = dict[str, Any]
Strategy = st.SearchStrategy[Any]

# Names refer to each other (a mount to a volume, an affinity to a label), so there are few.
_NAMES: Final = st.sampled_from(["a", "b", "c", "data", "client-7"])
_PATHS: Final = st.sampled_from(["/data", "/etc/app", "/var/run/secrets/kubernetes.io/serviceaccount", "log"])
_SIZES: Final = st.sampled_from(["0", "10m", "100m", "0.5", "1", "2", "64Mi", "1Gi", "128974848", "1e3"])
_PORTS: Final = st.sampled_from([1, 80, 8080, 50051, 15001, 15020, 65535])

# By the name of the field, wherever it stands: what a schema's "string" does not say.
_BY_FIELD: Final[Mapping[str, Strategy]] = {
    **dict.fromkeys(("name", "volumeName", "claimName", "secretName", "containerName", "request"), _NAMES),
    **dict.fromkeys(
        ("key", "topologyKey", "labelSelector.key"), st.sampled_from(["app", "kubernetes.io/os", "a/b"])
    ),
    **dict.fromkeys(("mountPath", "path", "devicePath", "workingDir", "terminationMessagePath"), _PATHS),
    "image": st.sampled_from(["app", "registry.example:5000/a/b:1.2", "app@sha256:" + "0" * 64]),
    "containerPort": _PORTS,
    "hostPort": _PORTS,
    "port": _PORTS,
    "ip": st.sampled_from(["10.0.0.9", "127.0.0.1", "fd00::9", "127.64.0.1"]),
    "hostnames": st.lists(st.sampled_from(["legacy.example", "greeter", "a"]), max_size=3),
    "nameservers": st.lists(st.sampled_from(["10.96.0.10", "fd00::10"]), max_size=3),
    "restartPolicy": st.sampled_from(["Always", "Always", "Never", "OnFailure"]),
    "runAsUser": st.sampled_from([0, 1000, 15014, 15015, 15016]),
    "fieldPath": st.sampled_from(["metadata.name", "metadata.namespace", "status.podIP", "spec.nodeName"]),
    "resource": st.sampled_from(["limits.cpu", "requests.memory"]),
    "localhostProfile": st.sampled_from(["profiles/app.json", "app"]),
    "expirationSeconds": st.sampled_from([600, 3607, 86400]),
    "serviceAccountName": st.just("default"),
    "serviceAccount": st.just("default"),
    # Need objects that are not there, or are not the pod's to set.
    **dict.fromkeys(("runtimeClassName", "overhead", "priority", "preemptionPolicy"), st.nothing()),
    "priorityClassName": st.sampled_from(["", "system-node-critical"]),
    "schedulingGates": st.lists(st.fixed_dictionaries({"name": _NAMES}), max_size=2),
    "os": st.fixed_dictionaries({"name": st.sampled_from(["linux", "windows"])}),
    "ephemeralContainers": st.nothing(),  # come by a subresource only
}
# Exactly one of these belongs into each of these objects, but for the fields that go with any of them.
_ONE_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "Volume": ("name",),
    "VolumeProjection": (),
    "EnvVar": ("name",),
    "EnvVarSource": (),
    "EnvFromSource": ("prefix",),
    "LifecycleHandler": (),
    "Probe": (
        "failureThreshold",
        "periodSeconds",
        "timeoutSeconds",
        "initialDelaySeconds",
        "successThreshold",
    ),
    "ProbeHandler": (),
}


class PodSchema:
    """Strategies from the components of /openapi/v3/api/v1."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._types: Mapping[str, Any] = document["components"]["schemas"]
        self._made: dict[tuple[str, int], Strategy] = {}

    def spec(self) -> Strategy:
        """PodSpecs with one to three containers, which no pod can be without."""
        fields = self._types[CORE + "PodSpec"]["properties"]
        given = {"containers", "initContainers", "volumes"}
        some = self._some({name: field for name, field in fields.items() if name not in given}, 1, at_most=8)

        def whole(main: list[Json], init: list[Json], volumes: list[Json], rest: Json) -> Json:
            for kind, containers in (("main", main), ("init", init)):
                for number, one in enumerate(containers):
                    one["name"] = f"{kind}-{number}"
            for volume, name in zip(volumes, ("data", "a", "b"), strict=False):
                volume["name"] = name
            lists = {"initContainers": init, "volumes": volumes}
            return {**rest, "containers": main, **{key: one for key, one in lists.items() if one}}

        volume = self._object(CORE + "Volume", 2)
        return st.builds(
            whole,
            st.lists(self._container(), min_size=1, max_size=3),
            st.lists(self._container(), max_size=3),
            st.lists(volume, max_size=3),
            some,
        )

    def _container(self) -> Strategy:
        fields = dict(self._types[CORE + "Container"]["properties"])
        del fields["name"]
        del fields["image"]
        image = st.fixed_dictionaries({"image": _BY_FIELD["image"]})
        return st.builds(lambda one, rest: {**rest, **one}, image, self._some(fields, 2, at_most=8))

    def _object(self, name: str, depth: int) -> Strategy:
        if (name, depth) not in self._made:
            self._made[name, depth] = self._new_object(name, depth)
        return self._made[name, depth]

    def _new_object(self, name: str, depth: int) -> Strategy:
        schema = self._types[name]
        fields = schema.get("properties")
        if name.endswith(".Quantity"):
            return _SIZES
        if name.endswith(".IntOrString"):
            return _PORTS | _NAMES
        if name.endswith((".Time", ".MicroTime")):
            return st.just("2025-01-31T00:00:00Z")
        if fields is None:
            return st.builds(dict)
        required = set(schema.get("required", ()))
        always = {one: self._field(one, fields[one], depth) for one in fields if one in required}
        optional = {one: field for one, field in fields.items() if one not in required}
        kind = name.removeprefix(CORE)
        if kind in _ONE_OF:
            beside = _ONE_OF[kind]
            choices = {one: field for one, field in optional.items() if one not in beside}
            chosen = self._some(choices, depth, at_least=1, at_most=1)
            rest = self._some(
                {one: field for one, field in optional.items() if one in beside}, depth, at_most=2
            )
            optional_part = st.builds(lambda one, more: {**more, **one}, chosen, rest)
        else:
            optional_part = self._some(optional, depth, at_most=4)
        return st.builds(lambda one, more: {**one, **more}, st.fixed_dictionaries(always), optional_part)

    def _some(self, fields: Mapping[str, Any], depth: int, at_least: int = 0, at_most: int = 4) -> Strategy:
        """Objects with a few of the fields."""
        names = [name for name in sorted(fields) if _BY_FIELD.get(name) is not st.nothing()]
        if not names or depth > MAX_DEPTH:
            return st.builds(dict)
        # First how many, evenly: left to itself, hypothesis prefers few.
        return (
            st.integers(min(at_least, len(names)), min(at_most, len(names)))
            .flatmap(
                lambda count: st.lists(st.sampled_from(names), unique=True, min_size=count, max_size=count)
            )
            .flatmap(
                lambda some: st.fixed_dictionaries(
                    {one: self._field(one, fields[one], depth) for one in some}
                )
            )
        )

    def _field(self, name: str, schema: Mapping[str, Any], depth: int) -> Strategy:
        if name in _BY_FIELD and (name == "os" or "allOf" not in schema):  # a volume's `image` is an object
            return _BY_FIELD[name]
        return st.deferred(lambda: self._value(schema, depth + 1))

    def _value(self, schema: Mapping[str, Any], depth: int) -> Strategy:
        if "allOf" in schema:
            return self._value(schema["allOf"][0], depth)
        if "$ref" in schema:
            return self._object(schema["$ref"].removeprefix(REF), depth)
        if "enum" in schema:
            return st.sampled_from(sorted(schema["enum"]))
        kind = schema.get("type")
        if kind == "array":
            return st.lists(self._value(schema["items"], depth), max_size=2)
        if kind == "object":
            values = schema.get("additionalProperties", {"type": "string"})
            keys = st.sampled_from(["app", "kubernetes.io/os", "cpu", "memory", "ephemeral-storage"])
            return st.dictionaries(keys, self._value(values, depth), max_size=2)
        if kind == "integer":
            return st.sampled_from([0, 1, 3, 30, 1000])
        if kind == "boolean":
            return st.booleans()
        if kind == "number":
            return st.just(1)
        return _NAMES | st.sampled_from(["", "linux", "text with spaces"])


def repaired(pod: Json, ask: Callable[[Json], tuple[int, Json]]) -> tuple[Json, Json] | None:
    """(the pod without what the API server refuses, what it makes of that), or None if that leads nowhere.

    `ask`: the status and body of the API server's answer.
    """
    pod = copy.deepcopy(pod)
    for _ in range(MAX_REPAIRS):
        status, answer = ask(pod)
        if status == 201:
            return pod, answer
        causes = (answer.get("details") or {}).get("causes") or []
        if status != 422:
            return None
        # From the back, so that the places of what is still to be left out stay what they are.
        ordered = sorted(causes, key=lambda cause: _steps(str(cause.get("field"))), reverse=True)
        left_out = [_leave_out(pod, cause) for cause in ordered]
        if not any(left_out):
            return None
    return None


def _steps(field: str) -> list[tuple[int, int, str]]:
    """`spec.containers[0].resources.limits[cpu]` -> comparable steps: indexes as numbers, keys as text."""
    found = re.findall(r"\[([^\]]*)\]|([^.\[\]]+)", field)
    return [(0, int(index), "") if index.isdigit() else (1, 0, index or name) for index, name in found]


def _leave_out(pod: Json, cause: Mapping[str, Any]) -> bool:
    """Delete the field, or, if it is what is missing, the object that it is missing from. False if nothing was
    there, or if it may not go: a pod cannot be without containers."""
    way: list[tuple[Any, Any]] = []
    node: Any = pod
    for is_name, index, name in _steps(str(cause.get("field"))):
        key = name if is_name else index
        if not _has(node, key):
            if cause.get("reason") != "FieldValueRequired":
                return False
            break
        way.append((node, key))
        node = node[key]
    if not way or way[-1][1] in ("spec", "metadata", "containers"):
        return False
    holder, key = way[-1]
    if isinstance(holder, list) and len(holder) == 1 and holder is pod["spec"]["containers"]:
        return False
    del holder[key]
    return True


def _has(holder: Any, key: Any) -> bool:
    if isinstance(holder, dict):
        return key in holder
    return isinstance(holder, list) and isinstance(key, int) and 0 <= key < len(holder)
