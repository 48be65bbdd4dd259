"""The Helm chart is what kustomize makes of manifests/: by a real Helm, object by object."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "hack"))
sys.path.insert(0, str(ROOT / "tests" / "injector"))

import chart  # noqa: E402
from localcluster import artefacts, shell  # noqa: E402
from real_apiserver import Api, why_not  # noqa: E402

from contract import names  # noqa: E402

Objects = dict[tuple[str, str], dict[str, Any]]

# Helm is built once, where there is Go (2 minutes), and kept outside of the tree. Continuous integration has both.
REQUIRED = os.environ.get("EVENSTREAM_REQUIRE_INTEROP") == "1"


def missing() -> str:
    if not artefacts.HELM.folder.is_dir() and shell.find("go") is None:
        return "needs Go, to build Helm with"
    if shell.find("kubectl") is None and not artefacts.KUBERNETES.folder.is_dir():
        return "needs kubectl, which has kustomize in it"
    return ""


pytestmark = [
    pytest.mark.once,
    pytest.mark.xdist_group("chart"),
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(missing()) and not REQUIRED, reason=missing()),
]

NAMESPACED = 'namespaces=["one","two"]'


def helm(*words: str | Path, text: str = "", home: Path | None = None) -> subprocess.CompletedProcess[str]:
    artefacts.ensure(artefacts.HELM)
    own = {} if home is None else {f"HELM_{name}_HOME": str(home) for name in ("CACHE", "CONFIG", "DATA")}
    return subprocess.run(
        [artefacts.HELM.binary, *words],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **own},
        check=False,
    )


def templated(*values: str, namespace: str = names.SYSTEM_NAMESPACE) -> Objects:
    done = helm("template", "mesh", chart.CHART, "--namespace", namespace, *_set(values))
    assert done.returncode == 0, done.stderr
    return chart.by_name(each for each in yaml.safe_load_all(done.stdout) if each)


def _set(values: tuple[str, ...]) -> list[str]:
    return [word for value in values for word in ("--set-json" if "=[" in value else "--set", value)]


def kustomized(folder: Path) -> Objects:
    found = chart.by_name(chart.rendered(folder))
    found.pop(chart.LEFT_OUT, None)
    return found


def test_the_chart_in_the_repository_is_what_its_generator_writes():
    written = {
        str(path.relative_to(chart.CHART)): path.read_text()
        for path in chart.CHART.rglob("*")
        if path.is_file()
    }
    assert written == chart.chart(), "run .venv/bin/python hack/chart.py"


def test_helm_finds_nothing_to_criticise():
    done = helm("lint", "--strict", chart.CHART, "--namespace", names.SYSTEM_NAMESPACE)
    assert done.returncode == 0, done.stdout
    assert "[WARNING]" not in done.stdout
    assert "[ERROR]" not in done.stdout


@pytest.mark.parametrize(
    ("overlay", "values"),
    [
        ("", ()),
        ("high-availability", ("highAvailability=true",)),
        ("cert-manager", ("certManager=true",)),
        ("namespaced-rbac", ("namespaces=[]",)),
    ],
    ids=["default", "high-availability", "cert-manager", "namespaced-rbac"],
)
def test_the_chart_is_what_kustomize_makes(overlay: str, values: tuple[str, ...]):
    folder = ROOT / "manifests" / (f"overlays/{overlay}" if overlay else "")
    assert templated(*values) == kustomized(folder)


def test_every_overlay_is_a_value():
    folders = {path.name for path in (ROOT / "manifests" / "overlays").iterdir()}
    assert folders - chart.NOT_IN_IT == set(chart.OVERLAYS)


def test_all_overlays_at_once(tmp_path: Path):
    """Each overlay's changes, one on top of the other, for kustomize takes the base once only."""
    shutil.copytree(ROOT / "manifests", tmp_path / "manifests")
    below = "../../base"
    for overlay in chart.OVERLAYS:
        file = tmp_path / "manifests" / "overlays" / overlay / "kustomization.yaml"
        file.write_text(file.read_text().replace("../../base", below))
        below = f"../{overlay}"
    assert templated("highAvailability=true", "certManager=true", "namespaces=[]") == kustomized(
        tmp_path / "manifests" / "overlays" / overlay
    )


def test_each_namespace_that_is_named_gets_what_namespace_access_gives(tmp_path: Path):
    done = helm("template", "mesh", chart.CHART, "-n", names.SYSTEM_NAMESPACE, *_set((NAMESPACED,)))
    assert done.returncode == 0, done.stderr
    found = [
        each
        for each in yaml.safe_load_all(done.stdout)
        if each and (each["kind"], each["metadata"]["name"]) == ("RoleBinding", "evenstream-sidecar")
    ]
    (binding,) = chart.rendered(ROOT / "manifests" / "namespace-access")
    expected = []
    for namespace in ("one", "two"):
        expected.append({**binding, "metadata": {**binding["metadata"], "namespace": namespace}})
    assert found == expected
    assert ("ClusterRoleBinding", "evenstream-sidecar") not in templated(NAMESPACED)


def test_images_are_named_as_by_kustomize(tmp_path: Path):
    shutil.copytree(ROOT / "manifests", tmp_path / "manifests")
    shutil.copy(ROOT / "manifests" / "base" / "images-in-environment.yaml", tmp_path)
    images = [
        {"name": f"evenstream-{name}", "newName": f"registry.example/team/evenstream-{name}", "newTag": "1.0"}
        for name in ("injector", "sidecar")
    ]
    overlay = {"resources": ["manifests"], "configurations": ["images-in-environment.yaml"], "images": images}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    found = templated("image.registry=registry.example/team", "image.tag=1.0")
    assert found == kustomized(tmp_path)


def test_the_other_values_reach_the_injector():
    found = templated(
        "replicas=5",
        "highAvailability=true",
        "image.pullPolicy=Always",
        "image.pullSecrets[0].name=registry",
        "sidecar.clusterDomain=corp.example",
        "sidecar.kind=plain",
    )
    spec = found["Deployment", "evenstream-injector"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert (spec["replicas"], container["imagePullPolicy"]) == (5, "Always")
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    environment = {each["name"]: each.get("value") for each in container["env"]}
    assert environment == {
        "EVENSTREAM_SIDECAR_IMAGE": names.DEFAULT_SIDECAR_IMAGE,
        "POD_NAMESPACE": None,
        "EVENSTREAM_CLUSTER_DOMAIN": "corp.example",
        "EVENSTREAM_SIDECAR_KIND": "plain",
    }


def test_a_release_in_another_namespace_is_in_that_namespace():
    there = json.dumps(list(templated("certManager=true", namespace="mesh").values()))
    here = json.dumps(list(templated("certManager=true").values()))
    assert there == here.replace(names.SYSTEM_NAMESPACE, "mesh")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("replicas=0", "replicas"),
        ("replicas=two", "replicas"),
        ("highAvailability=maybe", "highAvailability"),
        ("certManager=3", "certManager"),
        ("namespaces={One}", "namespaces"),
        ("namespaces=one", "namespaces"),
        ("image.tag=1.0 beta", "tag"),
        ("image.registry=https://registry.example", "registry"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("sidecar.kind=heavy", "kind"),
        ("sidecar.clusterDomain=UPPER", "clusterDomain"),
        ("replica=3", "replica"),
    ],
)
def test_a_value_that_is_not_allowed_gives_one_error_that_names_it(value: str, said: str):
    done = helm("template", "mesh", chart.CHART, "-n", names.SYSTEM_NAMESPACE, "--set", value)
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("- ")]
    assert len(errors) == 1, done.stderr
    assert said in errors[0]


@pytest.mark.parametrize("namespace", ["default", "kube-system"])
def test_a_namespace_that_others_use_is_refused(namespace: str):
    done = helm("template", "mesh", chart.CHART, "--namespace", namespace)
    assert done.returncode != 0
    assert "Evenstream wants a namespace of its own: --namespace evenstream-system" in done.stderr


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    if why_not() and not REQUIRED:
        pytest.skip(why_not())
    running = Api(tmp_path_factory.mktemp("apiserver"))
    yield running
    running.stop()


def test_a_real_api_server_takes_it_and_is_left_as_it_was(api: Api, tmp_path: Path):
    kinds = "deployments,services,pdb,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings"
    kinds += ",mutatingwebhookconfigurations,secrets"

    def there() -> list[str]:
        listed = api.kubectl("get", kinds, "-A", "-o", "name", "--ignore-not-found").stdout.splitlines()
        return sorted(each for each in listed if "evenstream" in each or "helm" in each)

    def run(*words: str | Path) -> str:
        done = helm("--kubeconfig", api.found["kubeconfig"], *words, home=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    place = ("--namespace", names.SYSTEM_NAMESPACE)
    assert there() == []
    said = run("install", "mesh", chart.CHART, *place, "--create-namespace")
    assert f"kubectl label namespace {names.SYSTEM_NAMESPACE} pod-security.kubernetes.io/enforce" in said
    assert "deployment.apps/evenstream-injector" in there()

    # What the injector puts there itself outlives an upgrade.
    patch = [{"op": "add", "path": f"/webhooks/{n}/clientConfig/caBundle", "value": "Q0E="} for n in (0, 1)]
    webhook = "mutatingwebhookconfiguration/evenstream-injector"
    api.kubectl("patch", webhook, "--type=json", "-p", json.dumps(patch))
    run("upgrade", "mesh", chart.CHART, *place, "--set", "replicas=4")
    found = json.loads(api.kubectl("get", webhook, "-o", "json").stdout)
    assert [each["clientConfig"].get("caBundle") for each in found["webhooks"]] == ["Q0E=", "Q0E="]
    replicas = "jsonpath={.spec.replicas}"
    assert api.kubectl("get", "deployment/evenstream-injector", "-o", replicas, *place).stdout == "4"

    run("uninstall", "mesh", *place)
    assert there() == []
