"""The file the demo's sidecar reads."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from demolib.objects import NAMESPACE, SERVICE, SERVICE_PORT, ObjectsFile, Pod, service_list

PODS = [Pod("greeter-1", "127.0.0.11", 50051), Pod("greeter-2", "127.0.0.12", 50051, terminating=True)]


def test_it_is_what_kubectl_prints() -> None:
    listed = service_list("127.0.0.1", PODS, 7)
    assert (listed["apiVersion"], listed["kind"]) == ("v1", "List")
    service, endpoint_slice = listed["items"]
    assert (service["kind"], service["metadata"]["name"]) == ("Service", SERVICE)
    assert service["spec"]["clusterIP"] == "127.0.0.1"
    assert service["spec"]["ports"][0]["port"] == SERVICE_PORT
    assert endpoint_slice["kind"] == "EndpointSlice"
    assert endpoint_slice["metadata"]["namespace"] == NAMESPACE
    assert endpoint_slice["metadata"]["labels"] == {"kubernetes.io/service-name": SERVICE}
    # The slice's port belongs to the Service's port by its name.
    assert endpoint_slice["ports"][0]["name"] == service["spec"]["ports"][0]["name"]
    assert endpoint_slice["ports"][0]["port"] == 50051


def test_a_leaving_pod_is_shown_as_the_control_plane_shows_it() -> None:
    stays, leaves = service_list("127.0.0.1", PODS, 1)["items"][1]["endpoints"]
    assert stays["conditions"] == {"ready": True, "serving": True, "terminating": False}
    assert leaves["conditions"] == {"ready": False, "serving": True, "terminating": True}
    assert leaves["addresses"] == ["127.0.0.12"]


def test_no_pods_is_an_empty_slice() -> None:
    empty = service_list("127.0.0.1", [], 1)["items"][1]
    assert (empty["endpoints"], empty["ports"]) == ([], [])


def test_two_target_ports_are_refused() -> None:
    with pytest.raises(ValueError, match=r"target ports: \[50051, 50052\] are not allowed"):
        service_list("127.0.0.1", [PODS[0], Pod("other", "127.0.0.13", 50052)], 1)


def test_a_reader_never_sees_half_of_it(tmp_path: Path) -> None:
    objects = ObjectsFile(tmp_path / "objects.json", "127.0.0.1")
    objects.write([])
    pods = [Pod(f"greeter-{number}", f"127.0.1.{number}", 50051) for number in range(200)]
    done = threading.Event()

    def write() -> None:
        for count in range(200):
            objects.write(pods[: 200 - count])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen: set[int] = set()
    while not done.is_set():
        endpoint_slice = json.loads(objects.path.read_text())["items"][1]
        seen.add(len(endpoint_slice["endpoints"]))
    writer.join()
    assert len(seen) > 1, "the reader must have met the writer for this to show anything"
    assert [path.name for path in tmp_path.iterdir()] == ["objects.json"]


def test_each_write_is_a_new_revision(tmp_path: Path) -> None:
    objects = ObjectsFile(tmp_path / "objects.json", "127.0.0.1")
    revisions = []
    for _ in range(3):
        objects.write(PODS)
        items = json.loads(objects.path.read_text())["items"]
        revisions.append([item["metadata"]["resourceVersion"] for item in items])
    assert revisions == [["1", "1"], ["2", "2"], ["3", "3"]]
