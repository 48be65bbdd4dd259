"""The example's manifests: consistent with each other and with the programs, and fit for Pod Security
"restricted" (https://kubernetes.io/docs/concepts/security/pod-security-standards/)."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from programs import GREETER

from contract.names import INJECT_ANNOTATION

FILES = ("backend.yaml", "client.yaml", "client-plain.yaml")


def objects(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((GREETER / name).read_text()))


def deployment(name: str) -> dict[str, Any]:
    (found,) = (item for item in objects(name) if item["kind"] == "Deployment")
    return found


def test_the_kustomization_names_them_all() -> None:
    assert tuple(objects("kustomization.yaml")[0]["resources"]) == FILES


@pytest.mark.parametrize("name", FILES)
def test_pods_meet_restricted(name: str) -> None:
    pod = deployment(name)["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC", "volumes"} & pod.keys()
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@pytest.mark.parametrize("name", FILES)
def test_selectors_and_images(name: str) -> None:
    spec = deployment(name)["spec"]
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    (container,) = spec["template"]["spec"]["containers"]
    assert (container["image"], container["imagePullPolicy"]) == ("evenstream-greeter:dev", "IfNotPresent")


def test_one_annotation_is_all_the_difference() -> None:
    injected, plain = deployment("client.yaml"), deployment("client-plain.yaml")
    annotations = injected["spec"]["template"]["metadata"].pop("annotations")
    assert annotations == {INJECT_ANNOTATION: "enabled"}
    renamed = yaml.safe_load(yaml.safe_dump(injected).replace("greeter-client", "greeter-client-plain"))
    assert renamed == plain


def test_the_service_leads_to_the_server_and_does_not_say_that_it_is_grpc() -> None:
    service, server = objects("backend.yaml")
    (port,) = service["spec"]["ports"]
    assert "appProtocol" not in port
    assert not port["name"].startswith("grpc")
    template = server["spec"]["template"]
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    (container,) = template["spec"]["containers"]
    assert container["ports"] == [{"name": port["targetPort"], "containerPort": 50051}]
    assert f":{port['port']}" in container["command"][3]
    (environment,) = container["env"]
    assert environment["name"] == "POD_NAME"


def test_a_pod_has_the_time_its_server_takes_to_stop() -> None:
    pod = deployment("backend.yaml")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    command = container["command"]
    grace = float(command[command.index("--grace") + 1])
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > pause + grace + 2.0  # the server's LAST_MARGIN_S


def test_the_other_service_differs_only_in_saying_that_it_is_grpc() -> None:
    (declared,), (service, _) = objects("service-app-protocol.yaml"), objects("backend.yaml")
    assert declared["spec"]["ports"][0].pop("appProtocol") == "kubernetes.io/h2c"
    assert declared == service


def test_the_image_holds_every_module_the_programs_import() -> None:
    copied = (GREETER / "Dockerfile").read_text()
    for name in ("greeter_pb2.py", "greeter_pb2_grpc.py", "greeter_session.py", "server.py", "client.py"):
        assert f" {name}" in copied
