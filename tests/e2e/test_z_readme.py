"""README.md and docs/ as a reader follows them: the commands as they stand there, in order, on a cluster.

Last of all end-to-end tests, because the README installs Evenstream and takes it out again. Before that it is taken out
under load.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clusterkit import mesh
from clusterkit.backends import Backends
from clusterkit.kube import ROOT, Cluster, Namespace, wait_for, without_proxy
from clusterkit.load import Load
from clusterkit.things import annotated, client_pod, sidecar_image
from figures import Figures

sys.path.insert(0, str(ROOT / "tests" / "readme"))
from doc_commands import Block, commands

pytestmark = pytest.mark.e2e

README = "README.md"
COMMANDS = commands("cluster")
PAGES = sorted({block.page for block in COMMANDS} - {README})
NAMESPACE = "evenstream-e2e-readme"
_readers = itertools.count(1)
# The sidecar's image is compiled if it is not in Docker's cache.
BLOCK_SECONDS = 900.0
TEST_SECONDS = 1500
REPORT_SECONDS = 60.0  # the example's client prints every 5 s; its old pod takes some time to go
EVEN = 1.05
LEAST_CALLS = 90  # so that one more or less is still even; the client makes 10 a second


class Reader:
    """Somebody with a shell at the repository's root, kubectl's current context being the cluster."""

    def __init__(self, namespace: Namespace, folder: Path) -> None:
        self.namespace = namespace
        kubectl = namespace.cluster.kubectl
        config = folder / "kubeconfig"
        config.write_text(kubectl("config", "view", "--raw", "--flatten", "--minify"))
        config.chmod(0o600)
        programs = folder / "bin"
        programs.mkdir()
        program = shutil.which(kubectl.words[0])
        assert program is not None
        (programs / "kubectl").symlink_to(program)
        self._environment = {
            **without_proxy(),
            "KUBECONFIG": str(config),
            "PATH": f"{programs}:{os.environ['PATH']}",
        }
        self.run(f"kubectl config set-context --current --namespace={namespace.name}")

    def run(self, text: str, where: str = "", seconds: float = BLOCK_SECONDS) -> str:
        """What it prints. Fails the test, with all that was said, at the first command that fails."""
        shell = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=self._environment,
        )
        try:
            told, errors = shell.communicate(timeout=seconds)
        finally:
            if shell.poll() is None:
                os.killpg(shell.pid, signal.SIGKILL)
        if shell.returncode:
            pytest.fail(
                f"{where}: exit code {shell.returncode}\n{text}\n---\n{told[-4000:]}{errors[-4000:]}",
                pytrace=False,
            )
        return told

    def follow(self, block: Block) -> str:
        return self.run(block.text, str(block))


@pytest.fixture
def reader(cluster: Cluster, tmp_path: Path) -> Iterator[Reader]:
    """In a namespace of its own: the last reader's takes as long to go as its pods' grace."""
    name = f"{NAMESPACE}-{next(_readers)}"
    namespace = mesh.make_namespace(cluster, name)
    yield Reader(namespace, tmp_path)
    mesh.delete_namespace(cluster, name)


def calls(line: str) -> dict[str, int]:
    """Per pod, of a line `calls: greeter-a 10, greeter-b 11; failed: 0`."""
    return {name: int(count) for name, count in re.findall(r"(greeter-\S+) (\d+)", line.partition(";")[0])}


def init_containers(namespace: Namespace) -> list[str]:
    """Of the client's one pod, once the old one is on its way out."""

    def one() -> list[dict[str, Any]]:
        pods = namespace.pods("greeter-client-plain")
        return pods if len(pods) == 1 else []

    (pod,) = wait_for("the client has one pod", one, REPORT_SECONDS)
    return [each["name"] for each in pod["spec"].get("initContainers", ())]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_of_docs_works_from_top_to_bottom(installed: Cluster, reader: Reader, page: str) -> None:
    for block in COMMANDS:
        if block.page == page:
            reader.follow(block)


def test_uninstalled_it_leaves_nothing_but_the_pods_that_have_it(
    installed: Cluster, namespace: Namespace, backends: Backends, client: str, figures: Figures
) -> None:
    """These go on: calls succeed, and servers that leave are left alone."""
    if installed.api.find(mesh.WEBHOOK) is None:  # a page ends with its removal
        mesh.install(installed)
    pods = backends.settled(3)
    with Load(namespace, client, "mix", "--rate", "100", "--count", "12") as load:
        load.until("12 streams, 4 each", lambda now: set(now.open.values()) == {4}, 30.0)
        mesh.uninstall(installed)
        left = mesh.left_behind(installed)
        counted = load.counted(300, 30.0)
        made = installed.api.create(namespace.path("pods"), client_pod("too-late", annotated()))
        namespace.delete("pods", "too-late", grace=0)
        backends.scale(2)
        after = backends.until_settled(2)
        load.until(
            "12 streams on the two that stay",
            lambda now: set(now.open) == set(after) and sum(now.open.values()) == 12,
            60.0,
        )
        report = load.finish()
    figures.note("uninstall", "things of ours left in the cluster", len(left), "0")
    figures.note("uninstall", "failed calls and streams of a pod that has the sidecar", report.failed, "0")
    assert left == []
    assert set(counted) == set(pods)
    assert report.failed == 0, report.errors
    assert sidecar_image(made) == ""


@pytest.mark.timeout(TEST_SECONDS, func_only=True)
def test_the_readme_works_from_top_to_bottom(cluster: Cluster, reader: Reader, figures: Figures) -> None:
    mesh.uninstall(cluster)
    install, before, annotate, verify, uninstall = (block for block in COMMANDS if block.page == README)

    reader.follow(install)
    wait_for("the API server calls the webhook", lambda: mesh.injects(cluster), mesh.IN_FORCE_SECONDS)

    reader.follow(before)
    look = before.lines()[-1]
    first = wait_for("the client without the sidecar tells", lambda: calls(reader.run(look)), REPORT_SECONDS)
    assert len(first) == 1, "one TCP connection, one pod"

    reader.follow(annotate)
    assert init_containers(reader.namespace) == ["evenstream", "evenstream-init"]

    look = verify.lines()[0]

    def even_enough() -> dict[str, int]:
        """Enough of them to be even: the first line may tell of three calls, or be the last pod's."""
        found = calls(reader.run(look))
        return found if len(found) == 3 and sum(found.values()) >= LEAST_CALLS else {}

    spread = wait_for(
        "the client with the sidecar tells of three pods", even_enough, REPORT_SECONDS, every=1.0
    )
    ratio = max(spread.values()) * len(spread) / sum(spread.values())
    figures.note("README", "calls per pod after the annotation, max/mean", f"{ratio:.2f}", f"<= {EVEN}")
    assert ratio <= EVEN, spread

    told = reader.follow(verify)
    start = told.index("{")
    status, end = json.JSONDecoder().raw_decode(told[start:])
    (service,) = status["services"]
    assert status["build"]["build"] == "compiled"
    assert service["name"] == "greeter"
    assert sorted(endpoint["pod"] for endpoint in service["endpoints"]) == sorted(spread)
    series = [
        line
        for line in told[start + end :].splitlines()
        if line.startswith("evenstream_endpoint_streams_total")
    ]
    assert len(series) == 3

    # In two steps, to look at the client in between.
    reader.run("\n".join(uninstall.lines()[:2]), str(uninstall))
    assert init_containers(reader.namespace) == []
    reader.run("\n".join(uninstall.lines()[2:]), str(uninstall))
    assert mesh.left_behind(cluster) == []
    assert reader.namespace.api.items(reader.namespace.path("apps/v1/deployments")) == []
