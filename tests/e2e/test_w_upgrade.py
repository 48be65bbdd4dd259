"""Evenstream is replaced by another version while pods are made and pods with it run."""

from __future__ import annotations

import itertools
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusterkit import mesh, node
from clusterkit.backends import Backends
from clusterkit.kube import Cluster, KubeError, Namespace, wait_for
from clusterkit.load import manifest
from clusterkit.things import annotated, client_pod, sidecar_image
from figures import Figures
from localcluster import images

pytestmark = pytest.mark.e2e

ROLLED = "rolled-client"
NEXT = "next"  # the tag of the version to come
PROGRAMS = ("evenstream-injector", "evenstream-sidecar")
CREATED_A_SECOND = 10
# What follows the rollout, so that the last of the old injectors' connections are gone too.
AFTERWARDS_SECONDS = 3.0
ROLLOUT_SECONDS = 120


@pytest.fixture(scope="module")
def next_version(installed: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kustomization of manifests/ with other tags, as docs/how-to/install.md has it. The images are the same ones:
    what is tried is the replacement."""
    if not installed.local:
        pytest.skip("needs the local cluster, whose images can be named again")
    for program in PROGRAMS:
        old, new = (f"docker.io/library/{program}:{tag}" for tag in ("dev", NEXT))
        node.run(*images.ctr("images", "tag", "--force", old, new))
    folder = tmp_path_factory.mktemp("next")
    manifests = os.path.relpath(mesh.MANIFESTS, folder)
    tags = [{"name": program, "newTag": NEXT} for program in PROGRAMS]
    (folder / "kustomization.yaml").write_text(json.dumps({"resources": [manifests], "images": tags}))
    return folder


@pytest.fixture(scope="module")
def rolled(namespace: Namespace, backends: Backends) -> Iterator[str]:
    """A Deployment as examples/greeter/client.yaml has it: it makes calls until it is told to end. Made now, it gets
    the sidecar of the old version, and has seen no fault that other tests make."""
    backends.settled(3)
    (deployment,) = manifest("client.yaml")
    namespace.apply(json.loads(json.dumps(deployment).replace("greeter-client", ROLLED)))
    namespace.kubectl("rollout", "status", f"deployment/{ROLLED}", "--timeout=90s", seconds=100)
    yield ROLLED
    namespace.delete("apps/v1/deployments", ROLLED)


class Maker:
    """Makes annotated pods at a rate, in a thread of its own. None of them is ever run."""

    def __init__(self, namespace: Namespace) -> None:
        self.sidecars: list[str] = []  # the image that each pod was given; "" if none
        self.errors: list[str] = []
        self._namespace = namespace
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        due = time.monotonic()
        for number in itertools.count():
            if self._stop.wait(max(0.0, due - time.monotonic())):
                return
            due += 1 / CREATED_A_SECOND
            name = f"made-{number}"
            # No node has this label, so the pod waits for ever.
            pod = client_pod(name, annotated(), nodeSelector={"evenstream.dev/e2e": "nowhere"})
            try:
                made = self._namespace.api.create(self._namespace.path("pods"), pod)
                self.sidecars.append(sidecar_image(made))
                self._namespace.delete("pods", name, grace=0)
            except KubeError as error:
                self.errors.append(str(error))

    def __enter__(self) -> Maker:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()


def test_an_upgrade_while_pods_are_made(
    cluster: Cluster, namespace: Namespace, next_version: Path, rolled: str, figures: Figures
) -> None:
    """Each pod gets a sidecar, of the old version or the new one, and in the end of the new one."""
    system = cluster.namespace(mesh.SYSTEM)
    with Maker(namespace) as maker:
        wait_for("pods are made", lambda: len(maker.sidecars) > CREATED_A_SECOND, 30.0)
        cluster.kubectl("apply", "-k", str(next_version))
        system.kubectl(
            *("rollout", "status", "deployment/evenstream-injector", f"--timeout={ROLLOUT_SECONDS}s"),
            seconds=ROLLOUT_SECONDS + 10,
        )
        settled = time.monotonic() + AFTERWARDS_SECONDS
        wait_for("the old injectors are gone", lambda: injector_images(system) == {NEXT}, 60.0)
        wait_for("some more pods are made", lambda: time.monotonic() > settled, AFTERWARDS_SECONDS + 5.0)
        last = len(maker.sidecars)
        wait_for("the last pods are made", lambda: len(maker.sidecars) > last + 5, 30.0)
    bare = sum(not image for image in maker.sidecars)
    figures.note("upgrade", f"pods made at {CREATED_A_SECOND} a second", len(maker.sidecars))
    figures.note("upgrade", "failed creations", len(maker.errors), "0")
    figures.note("upgrade", "pods without the sidecar", bare, "0")
    assert maker.errors == []
    assert bare == 0
    assert set(maker.sidecars) == {"evenstream-sidecar:dev", f"evenstream-sidecar:{NEXT}"}
    assert set(maker.sidecars[last:]) == {f"evenstream-sidecar:{NEXT}"}


def injector_images(system: Namespace) -> set[str]:
    """The tags of all that run, those on their way out too."""
    query = "labelSelector=app.kubernetes.io/name%3Devenstream-injector"
    pods = system.api.items(system.path("pods", query=query))
    return {pod["spec"]["containers"][0]["image"].rpartition(":")[2] for pod in pods}


def test_pods_that_are_rolled_to_the_new_sidecar_lose_no_call(
    namespace: Namespace, rolled: str, next_version: Path, figures: Figures
) -> None:
    (old,) = namespace.pods(rolled)
    name = old["metadata"]["name"]
    with namespace.api.watch(namespace.path("pods", query=f"fieldSelector=metadata.name%3D{name}")) as watch:
        namespace.kubectl("rollout", "restart", f"deployment/{rolled}")
        namespace.kubectl("rollout", "status", f"deployment/{rolled}", "--timeout=90s", seconds=100)
        wait_for("the old pod is gone", lambda: any(e.kind == "DELETED" for e in watch.events), 60.0)
        status = watch.events[-1].object["status"]
    exits = {
        each["name"]: each["state"]["terminated"]["exitCode"]
        for each in [*status["initContainerStatuses"], *status["containerStatuses"]]
    }
    (new,) = namespace.pods(rolled)
    figures.note(
        "upgrade", "exit code of a rolled client, 1 if one of its calls failed", exits["client"], "0"
    )
    assert sidecar_image(old) != sidecar_image(new) == f"evenstream-sidecar:{NEXT}"
    assert exits["client"] == 0
    assert exits["evenstream"] == 0
    wait_for(
        "the new one makes calls",
        lambda: re.findall(
            r"^calls: greeter.*failed: 0$", namespace.logs(new["metadata"]["name"], "client"), re.MULTILINE
        ),
        30.0,
    )
