"""Writes the Helm chart in manifests/helm/evenstream from what kustomize makes of manifests/: one source for both.

    .venv/bin/python hack/chart.py

Each overlay is a value of the chart. Where an overlay's objects differ from the default's, the template has both, and
the value chooses; a change in manifests/ needs no change here. Comments stay in manifests/: YAML is read, not edited.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[1]
MANIFESTS = ROOT / "manifests"
CHART = MANIFESTS / "helm" / "evenstream"
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "hack"))

from localcluster import artefacts, shell  # noqa: E402

from contract import names  # noqa: E402  (the paths come first)

# The value that stands for an overlay, as a template's condition.
OVERLAYS = {
    "high-availability": ".Values.highAvailability",
    "cert-manager": ".Values.certManager",
    "namespaced-rbac": '(not (kindIs "invalid" .Values.namespaces))',
}
# No injector runs there, so there is nothing to set but what `python -m injector policy` takes as flags.
NOT_IN_IT = {"no-server"}
ACCESS = "namespace-access"  # what namespaced-rbac needs in each namespace
ABSENT = object()

# Match conditions are on by default from here on.
KUBERNETES = ">=1.28.0-0"
# There, `helm install --create-namespace` makes the namespace before any object of the chart.
LEFT_OUT = ("Namespace", names.SYSTEM_NAMESPACE)

WRITTEN = "# Written by hack/chart.py from manifests/, where the reasons stand. Change it there."

HEAD = """\
{{- if has .Release.Namespace (list "default" "kube-system") }}
{{- fail "Evenstream wants a namespace of its own: --namespace evenstream-system --create-namespace" }}
{{- end }}
"""

VALUES = f"""\
{WRITTEN}
# Both images come from here: REGISTRY/evenstream-injector:TAG and REGISTRY/evenstream-sidecar:TAG.
image:
  registry: ""
  tag: dev
  pullPolicy: IfNotPresent
  # Of the injector. Pods that get a sidecar need their own.
  pullSecrets: []

# Injectors. If null: 2, and 3 with highAvailability.
replicas: null

# One injector on each of three nodes, with a priority that keeps them there.
highAvailability: false

# cert-manager makes the certificate, and the injector has no right in the cluster at all.
certManager: false

# Where sidecars may read Services and EndpointSlices. null: in every namespace. A list: in these only.
namespaces: null

sidecar:
  # What Services' names end in. Empty: {names.DEFAULT_CLUSTER_DOMAIN}.
  clusterDomain: ""
  # auto: native, but plain where the API server is older than 1.29. native and plain force either.
  kind: auto
"""

NOTES = """\
Pods that ask with the annotation evenstream.dev/inject: "enabled" get the sidecar from now on, as soon as they are
made. Nothing happens to others. Is it ready?

  kubectl -n {{ .Release.Namespace }} rollout status deployment/evenstream-injector

The injector needs nothing that Pod Security "restricted" forbids. To have that enforced:

  kubectl label namespace {{ .Release.Namespace }} pod-security.kubernetes.io/enforce=restricted
"""


class Choice(NamedTuple):
    """A value that depends on the chart's values: the first whose condition holds, else the default."""

    default: Any
    others: tuple[tuple[str, Any], ...]


class Template(str):
    """Text that stands in the template as it is."""


@functools.cache
def kubectl() -> str:
    found = shell.find("kubectl")
    return found or str(artefacts.kubernetes("kubectl"))


def rendered(folder: Path) -> list[dict[str, Any]]:
    """What kustomize makes of a folder. Raises ClusterError with kustomize's own words."""
    text = shell.run([kubectl(), "kustomize", folder]).stdout
    return [each for each in yaml.safe_load_all(text) if each]


def by_name(objects: Iterable[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(each["kind"], each["metadata"]["name"]): each for each in objects}


def merged(default: Any, others: Mapping[str, Any], where: str = "") -> Any:
    """`default`, with a Choice wherever one of the others differs from it.

    Raises ValueError where two others want different things: the chart could not have both.
    """
    unlike = {condition: value for condition, value in others.items() if value != default}
    if not unlike:
        return default
    every = [default, *others.values()]
    if all(isinstance(value, dict) for value in every):
        keys = list(dict.fromkeys(key for value in every for key in value))
        return {
            key: merged(
                default.get(key, ABSENT),
                {condition: value.get(key, ABSENT) for condition, value in others.items()},
                f"{where}.{key}",
            )
            for key in keys
        }
    if all(isinstance(value, list) and len(value) == len(default) for value in every) and all(
        isinstance(item, dict) for value in every for item in value
    ):
        return [
            merged(item, {c: value[number] for c, value in others.items()}, f"{where}[{number}]")
            for number, item in enumerate(default)
        ]
    first, *rest = unlike.values()
    if any(value != first for value in rest):
        raise ValueError(f"{where}: {' and '.join(unlike)} want different things")
    return Choice(default, tuple(unlike.items()))


def templated(value: Any) -> Any:
    """The namespace is the release's."""
    if isinstance(value, dict):
        return {key: templated(each) for key, each in value.items()}
    if isinstance(value, list):
        return [templated(each) for each in value]
    if isinstance(value, Choice):
        return Choice(templated(value.default), tuple((c, templated(each)) for c, each in value.others))
    if isinstance(value, str) and names.SYSTEM_NAMESPACE in value:
        return Template(f'"{value.replace(names.SYSTEM_NAMESPACE, "{{ .Release.Namespace }}")}"')
    return value


def lines(value: Any, indent: int = 0) -> list[str]:
    """A mapping or a list as YAML, with the template's conditions around what they choose."""
    pad = " " * indent
    found: list[str] = []
    if isinstance(value, list):
        for item in value:
            if isinstance(item, dict):
                # The dash wants an entry that is always there.
                inner = lines(
                    dict(sorted(item.items(), key=lambda each: isinstance(each[1], Choice))), indent + 2
                )
                found += [f"{pad}- {inner[0].lstrip()}", *inner[1:]]
            else:
                found.append(f"{pad}- {scalar(item)}")
        return found
    for key, each in value.items():
        found += entry(key, each, indent)
    return found


def entry(key: str, value: Any, indent: int) -> list[str]:
    if value is ABSENT:
        return []
    pad = " " * indent
    if isinstance(value, Choice):
        found = []
        for number, (condition, each) in enumerate(value.others):
            found.append(f"{pad}{{{{- {'else if' if number else 'if'} {condition} }}}}")
            found += entry(key, each, indent)
        if value.default is not ABSENT:
            found.append(f"{pad}{{{{- else }}}}")
            found += entry(key, value.default, indent)
        return [*found, f"{pad}{{{{- end }}}}"]
    if isinstance(value, (dict, list)) and value:
        return [f"{pad}{key}:", *lines(value, indent + 2)]
    return [f"{pad}{key}: {scalar(value)}"]


def scalar(value: Any) -> str:
    if isinstance(value, Template):
        return str(value)
    if isinstance(value, str) and "{{" in value:
        raise ValueError(f"a template would take this for its own: {value}")
    return json.dumps(value)  # every JSON value is a YAML value, and its quoting leaves no question


def injector(deployment: dict[str, Any]) -> dict[str, Any]:
    """The Deployment with the values that are no overlay."""
    spec = deployment["spec"]
    several = spec["replicas"]
    assert isinstance(several, Choice)
    spec["replicas"] = Choice(
        several.default,
        (
            ('(not (kindIs "invalid" .Values.replicas))', Template("{{ .Values.replicas }}")),
            *several.others,
        ),
    )
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    container["image"] = image("evenstream-injector", container["image"])
    container["imagePullPolicy"] = Template("{{ .Values.image.pullPolicy }}")
    for variable in container["env"]:
        if variable["name"] == "EVENSTREAM_SIDECAR_IMAGE":
            variable["value"] = image("evenstream-sidecar", variable["value"])
    pod["imagePullSecrets"] = Choice(
        ABSENT, ((".Values.image.pullSecrets", Template("{{ toJson .Values.image.pullSecrets }}")),)
    )
    container["env"] = Choice(
        container["env"],
        (
            (
                '(or .Values.sidecar.clusterDomain (ne .Values.sidecar.kind "auto"))',
                [
                    *container["env"],
                    {
                        "name": "EVENSTREAM_CLUSTER_DOMAIN",
                        "value": Template("{{ .Values.sidecar.clusterDomain | quote }}"),
                    },
                    {"name": "EVENSTREAM_SIDECAR_KIND", "value": Template("{{ .Values.sidecar.kind }}")},
                ],
            ),
        ),
    )
    return deployment


def image(name: str, default: str) -> Template:
    assert default == f"{name}:dev", default
    registry = "{{ with .Values.image.registry }}{{ . }}/{{ end }}"
    return Template(f'"{registry}{name}:{{{{ .Values.image.tag }}}}"')


def templates() -> dict[str, str]:
    """The chart's templates: one for each object, by file name."""
    default = by_name(rendered(MANIFESTS))
    del default[LEFT_OUT]
    overlays = {
        condition: by_name(rendered(MANIFESTS / "overlays" / name)) for name, condition in OVERLAYS.items()
    }
    found = {}
    for key in dict.fromkeys([*default, *(each for objects in overlays.values() for each in objects)]):
        if key == LEFT_OUT:
            continue
        thing = merged(
            default.get(key, ABSENT), {c: objects.get(key, ABSENT) for c, objects in overlays.items()}
        )
        found[f"{key[0]}-{key[1]}.yaml".lower()] = template(thing, key[0])
    (binding,) = rendered(MANIFESTS / ACCESS)
    binding["metadata"]["namespace"] = Template("{{ . | quote }}")
    found[f"{ACCESS}.yaml"] = "\n".join(
        [WRITTEN, "{{- range .Values.namespaces }}", "---", *lines(binding), "{{- end }}", ""]
    )
    return found


def template(thing: Any, kind: str) -> str:
    conditions: list[str] = []
    if isinstance(thing, Choice):
        # Only there, or not there: what an overlay changes in an object is a Choice within it.
        gone = [condition for condition, value in thing.others if value is ABSENT]
        new = [(condition, value) for condition, value in thing.others if value is not ABSENT]
        if thing.default is ABSENT:
            ((condition, thing),) = new
            conditions.append(condition)
        else:
            assert not new
            thing = thing.default
            conditions += [opposite(condition) for condition in gone]
    thing = templated(thing)
    head = HEAD if kind == "Deployment" else ""
    body = lines(injector(thing) if kind == "Deployment" else thing)
    if conditions:
        assert len(conditions) == 1
        body = [f"{{{{- if {conditions[0]} }}}}", *body, "{{- end }}"]
    return "\n".join([WRITTEN, *(head.splitlines()), *body, ""])


def opposite(condition: str) -> str:
    double = condition.startswith("(not ") and condition.endswith(")")
    return condition.removeprefix("(not ")[:-1] if double else f"not {condition}"


def schema() -> str:
    """What the values may be: Helm refuses others before it touches a cluster."""

    def closed(title: str, properties: dict[str, Any]) -> dict[str, Any]:
        return {
            "title": title,
            "type": "object",
            "additionalProperties": False,
            "required": sorted(properties),
            "properties": properties,
        }

    label = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"}
    switch = {"type": "boolean"}
    image = {
        "registry": {
            "type": "string",
            "pattern": "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?(:[0-9]+)?(/[a-z0-9]([-a-z0-9._]*[a-z0-9])?)*)?$",
        },
        "tag": {"type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$"},
        "pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
        "pullSecrets": {"type": "array", "items": closed("a Secret", {"name": label})},
    }
    sidecar = {
        "clusterDomain": {"type": "string", "pattern": "^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?)?$"},
        "kind": {"enum": ["auto", "native", "plain"]},
    }
    top = closed(
        "Evenstream",
        {
            "image": closed("where the images come from", image),
            "replicas": {"type": ["integer", "null"], "minimum": 1},
            "highAvailability": switch,
            "certManager": switch,
            "namespaces": {"type": ["array", "null"], "items": label, "uniqueItems": True},
            "sidecar": closed("what the injector adds", sidecar),
        },
    )
    top["required"] = ["image", "sidecar"]
    # Helm itself gives these to a chart.
    top["properties"]["global"] = {"type": "object"}
    return json.dumps({"$schema": "http://json-schema.org/draft-07/schema#", **top}, indent=2) + "\n"


def chart() -> dict[str, str]:
    """Every file of the chart, by its path within it."""
    about = {
        "apiVersion": "v2",
        "name": "evenstream",
        "description": "Spreads gRPC streams evenly over the pods of a Service",
        "type": "application",
        "version": names.VERSION,
        "appVersion": names.VERSION,
        "kubeVersion": KUBERNETES,
    }
    files = {
        "Chart.yaml": f"{WRITTEN}\n{yaml.safe_dump(about, sort_keys=False)}",
        "values.yaml": VALUES,
        "values.schema.json": schema(),
        "templates/NOTES.txt": NOTES,
    }
    return files | {f"templates/{name}": text for name, text in templates().items()}


def main() -> int:
    files = chart()
    for old in CHART.rglob("*"):
        if old.is_file() and str(old.relative_to(CHART)) not in files:
            old.unlink()
    for name, text in files.items():
        path = CHART / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    print(os.path.relpath(CHART))
    return 0


if __name__ == "__main__":
    sys.exit(main())
