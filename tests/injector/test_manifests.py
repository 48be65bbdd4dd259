"""What stands in manifests/ and the Dockerfiles agrees with what the programs take for granted."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import injector.__main__ as program
from contract import names
from injector import server

ROOT = Path(__file__).parent.parent.parent


BASES = (ROOT / "manifests" / "base", ROOT / "manifests" / "base" / "common")


@pytest.fixture(scope="module")
def objects() -> dict[tuple[str, str], dict[str, Any]]:
    """By kind and name, from the files that kustomization.yaml lists."""
    found = {}
    for folder in BASES:
        for name in yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]:
            if (folder / name).is_file():
                for thing in yaml.safe_load_all((folder / name).read_text()):
                    found[thing["kind"], thing["metadata"]["name"]] = thing
    return found


@pytest.mark.parametrize("folder", BASES, ids=lambda folder: folder.name)
def test_every_file_is_listed(folder: Path):
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())
    named = {*listed["resources"], *listed.get("configurations", ()), "kustomization.yaml"} - {"common"}
    assert {path.name for path in folder.glob("*.yaml")} == named


def test_the_webhooks_are_called_where_the_injector_listens(objects):
    webhooks = objects["MutatingWebhookConfiguration", program.WEBHOOK_CONFIGURATION]["webhooks"]
    assert tuple(webhook["name"] for webhook in webhooks) == program.WEBHOOKS
    assert [webhook["clientConfig"]["service"]["path"] for webhook in webhooks] == [
        server.MUTATE_PATH,
        server.RESTRICTED_PATH,
    ]
    (port,) = objects["Service", program.SERVICE]["spec"]["ports"]
    for webhook in webhooks:
        service = webhook["clientConfig"]["service"]
        assert (service["name"], service["namespace"]) == (program.SERVICE, names.SYSTEM_NAMESPACE)
        assert port["port"] == service["port"]
    (container,) = objects["Deployment", program.SERVICE]["spec"]["template"]["spec"]["containers"]
    assert container["ports"] == [{"name": port["targetPort"], "containerPort": program.SERVE_PORT}]


def test_only_pods_that_ask_reach_it_and_it_blocks_nobody(objects):
    for webhook in objects["MutatingWebhookConfiguration", program.WEBHOOK_CONFIGURATION]["webhooks"]:
        (condition,) = webhook["matchConditions"]
        assert f"'{names.INJECT_ANNOTATION}' in object.metadata.annotations" in condition["expression"]
        assert (webhook["failurePolicy"], webhook["sideEffects"]) == ("Ignore", "None")
        assert webhook["reinvocationPolicy"] == "IfNeeded"
        assert webhook["timeoutSeconds"] <= server.READ_TIMEOUT_SECONDS
        expression = webhook["namespaceSelector"]["matchExpressions"][0]
        assert set(expression["values"]) == {"kube-system", names.SYSTEM_NAMESPACE}


def test_the_two_webhooks_share_all_namespaces_between_them(objects):
    """They differ in nothing but the path and one expression, and that one is the other's opposite."""
    webhooks = objects["MutatingWebhookConfiguration", program.WEBHOOK_CONFIGURATION]["webhooks"]
    enforced = [webhook["namespaceSelector"]["matchExpressions"][1] for webhook in webhooks]
    assert [one["operator"] for one in enforced] == ["NotIn", "In"]
    assert enforced[0]["values"] == enforced[1]["values"] == ["baseline", "restricted"]
    alike = (
        "rules",
        "matchConditions",
        "failurePolicy",
        "timeoutSeconds",
        "reinvocationPolicy",
        "sideEffects",
    )
    assert [webhooks[0][key] for key in alike] == [webhooks[1][key] for key in alike]


def test_the_rights_name_the_objects_that_the_injector_uses(objects):
    rules = objects["Role", program.SERVICE]["rules"] + objects["ClusterRole", program.SERVICE]["rules"]
    named = {name for rule in rules for name in rule.get("resourceNames", [])}
    assert named == {program.SECRET, program.WEBHOOK_CONFIGURATION}
    unnamed = [rule for rule in rules if "resourceNames" not in rule]
    assert [(rule["resources"], rule["verbs"]) for rule in unnamed] == [(["secrets"], ["create"])]


def test_the_sidecars_image_is_the_contracts_default(objects):
    (container,) = objects["Deployment", program.SERVICE]["spec"]["template"]["spec"]["containers"]
    environment = {one["name"]: one.get("value") for one in container["env"]}
    assert environment[program.IMAGE_VARIABLE] == names.DEFAULT_SIDECAR_IMAGE


def test_the_grace_covers_the_pause_and_the_requests_under_way(objects):
    pod = objects["Deployment", program.SERVICE]["spec"]["template"]["spec"]
    _, pause = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert pod["terminationGracePeriodSeconds"] > int(pause) + server.SHUTDOWN_SECONDS


@pytest.mark.parametrize(
    ("dockerfile", "uid"), [("Dockerfile.sidecar", names.SIDECAR_UID), ("Dockerfile.injector", 15016)]
)
def test_images_run_as_a_numbered_user_and_fetch_no_frontend(dockerfile: str, uid: int):
    text = (ROOT / dockerfile).read_text()
    assert f"\nUSER {uid}:{uid}\n" in text
    # A frontend named there would be fetched from a registry, which not every build machine reaches.
    assert not re.search(r"^#\s*syntax\s*=", text, re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"python:3.13-slim"}


NEEDS_KUBECTL = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="needs kubectl, which has kustomize in it"
)
OVERLAYS = ("high-availability", "cert-manager", "namespaced-rbac")


def _rendered(folder: Path) -> list[dict[str, Any]]:
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def _named(things: list[dict[str, Any]]) -> set[str]:
    return {f"{thing['kind']}/{thing['metadata']['name']}" for thing in things}


@NEEDS_KUBECTL
def test_kustomizes_images_reach_both_images(tmp_path: Path):
    shutil.copytree(ROOT / "manifests", tmp_path / "manifests")
    shutil.copy(ROOT / "manifests" / "base" / "images-in-environment.yaml", tmp_path)
    images = [
        {"name": f"evenstream-{name}", "newName": f"registry.example/{name}", "newTag": "1.0"}
        for name in ("injector", "sidecar")
    ]
    overlay = {"resources": ["manifests"], "configurations": ["images-in-environment.yaml"], "images": images}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    text = yaml.safe_dump_all(_rendered(tmp_path))
    assert "image: registry.example/injector:1.0" in text
    assert "value: registry.example/sidecar:1.0" in text
    assert ":dev" not in text


@NEEDS_KUBECTL
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_differs_from_the_default_in_what_it_says_and_nothing_else(overlay: str):
    default, other = (_rendered(ROOT / "manifests" / path) for path in (".", f"overlays/{overlay}"))
    gone, new = _named(default) - _named(other), _named(other) - _named(default)
    changed = {
        f"{one['kind']}/{one['metadata']['name']}"
        for one in other
        if f"{one['kind']}/{one['metadata']['name']}" in _named(default) and one not in default
    }
    deployment, webhooks = (
        "Deployment/evenstream-injector",
        "MutatingWebhookConfiguration/evenstream-injector",
    )
    rights = {
        f"{kind}/evenstream-injector" for kind in ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
    }
    assert (gone, new, changed) == {
        "high-availability": (set(), set(), {deployment}),
        "namespaced-rbac": ({"ClusterRoleBinding/evenstream-sidecar"}, set(), set()),
        "cert-manager": (
            rights,
            {
                *("Issuer/evenstream-self-signed", "Certificate/evenstream-ca", "Issuer/evenstream-ca"),
                "Certificate/evenstream-injector",
            },
            {deployment, webhooks},
        ),
    }[overlay]


@NEEDS_KUBECTL
def test_cert_managers_certificate_is_the_one_that_is_read_and_trusted():
    things = {
        (one["kind"], one["metadata"]["name"]): one
        for one in _rendered(ROOT / "manifests/overlays/cert-manager")
    }
    certificate = things["Certificate", program.SERVICE]
    assert certificate["spec"]["dnsNames"] == [f"{program.SERVICE}.{names.SYSTEM_NAMESPACE}.svc"]
    configuration = things["MutatingWebhookConfiguration", program.WEBHOOK_CONFIGURATION]
    assert configuration["metadata"]["annotations"] == {
        "cert-manager.io/inject-ca-from": f"{names.SYSTEM_NAMESPACE}/{certificate['metadata']['name']}"
    }
    pod = things["Deployment", program.SERVICE]["spec"]["template"]["spec"]
    assert pod["volumes"] == [
        {"name": "certificates", "secret": {"secretName": certificate["spec"]["secretName"]}}
    ]
    (container,) = pod["containers"]
    (mount,) = container["volumeMounts"]
    assert container["args"] == ["serve", f"--certificates={mount['mountPath']}"]
    # The other issuer signs what this one's CA vouches for.
    assert (
        things["Issuer", "evenstream-ca"]["spec"]["ca"]["secretName"]
        == (things["Certificate", "evenstream-ca"]["spec"]["secretName"])
    )
