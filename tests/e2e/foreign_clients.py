"""The clients of tests/interop as they stand, in an image: grpc-go, Python, Java and Node."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).resolve().parent
INTEROP: Final = HERE.parent / "interop"
if str(INTEROP) not in sys.path:
    sys.path.insert(0, str(INTEROP))

import interop_build  # noqa: E402
import interop_stacks  # noqa: E402
from clusterkit.kube import IMAGES_SECONDS, KubeError, hack  # noqa: E402
from clusterkit.things import IDLE, client_pod  # noqa: E402

IMAGE: Final = "evenstream-stacks:dev"
SERVICE: Final = "interop"
PORT: Final = 8080
PYTHON: Final = "/opt/venv/bin/python"
# Java takes the most.
MEMORY: Final = "512Mi"


def _build_jre(target: Path) -> None:
    words = ("--add-modules=java.se,jdk.unsupported", "--strip-debug", "--no-man-pages", "--no-header-files")
    interop_build.run(("jlink", *words, f"--output={target / 'jre'}"), target)


# A Java of the machine's own, less what no program at run time needs: a third of the size.
JRE: Final = interop_build.Recipe("jre", ("java", "jlink"), (("java", "-version"),), (), _build_jre)

JAVA_FLAGS: Final = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m")
# By stack: what runs its client in the image, before the flags that all four share.
CLIENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "grpc-go": ("go/client",),
    "python": ("env", "PYTHONPATH=stubs", PYTHON, "python/client.py"),
    "grpc-java": (
        *("jre/bin/java", *JAVA_FLAGS, "-cp", "java/*", f"{interop_stacks.JAVA_PACKAGE}.TestServiceClient"),
        "--use_tls=false",
    ),
    "grpc-js": ("env", "INTEROP_PROTO=node/interop.proto", "bin/node", "node/client.js"),
}
# The official clients give up after ten seconds, or when one call takes longer than one.
OFFICIAL: Final = (
    "--soak_overall_timeout_seconds=60",
    f"--soak_per_iteration_max_acceptable_latency_ms={interop_stacks.SOAK_SLOWEST_MS}",
)


def command(stack: str, host: str, calls: int) -> tuple[str, ...]:
    """So many unary calls one after another on one channel; it ends with 0 if all of them were right."""
    flags = (f"--server_host={host}", f"--server_port={PORT}", "--test_case=rpc_soak")
    more = OFFICIAL if stack in ("grpc-go", "grpc-java") else ()
    return (*CLIENTS[stack], *flags, f"--soak_iterations={calls}", *more)


def build_image() -> None:
    """Into the cluster. Raises ToolMissingError where a toolchain is missing, BuildFailedError or KubeError."""
    recipes = interop_stacks
    go, java, node, stubs, jre = (
        interop_build.ensure(recipe)
        for recipe in (
            recipes.GO_RECIPE,
            recipes.JAVA_RECIPE,
            recipes.NODE_RECIPE,
            recipes.PYTHON_RECIPE,
            JRE,
        )
    )
    binary = shutil.which("node")
    assert binary is not None  # its recipe needs it
    with tempfile.TemporaryDirectory(dir=interop_build.cache_root()) as folder:
        context = Path(folder)
        for part in ("go", "bin", "python"):
            (context / part).mkdir()
        _copy(go / "bin" / "client", context / "go" / "client")
        _copy(Path(binary).resolve(), context / "bin" / "node")
        for script in ("client.py", "server.py"):
            _copy(INTEROP / "python" / script, context / "python" / script)
        for source, name in ((java / "lib", "java"), (node, "node"), (stubs, "stubs"), (jre / "jre", "jre")):
            shutil.copytree(source, context / name, copy_function=_copy, symlinks=True)
        context.chmod(0o755)
        environment = {**os.environ, **_docker()}
        docker = environment.pop("DOCKER")
        words = [docker, "build", "--quiet", f"--tag={IMAGE}", f"--file={HERE / 'stacks' / 'Dockerfile'}"]
        done = subprocess.run(
            [*words, str(context)], env=environment, capture_output=True, text=True, timeout=IMAGES_SECONDS
        )
    if done.returncode:
        raise KubeError(f"docker build of {IMAGE}: {done.stderr.strip()}")
    hack("load", IMAGE, seconds=IMAGES_SECONDS)


def _copy(source: str | Path, target: str | Path) -> None:
    """Without a second copy of what is on the same disk."""
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def _docker() -> dict[str, str]:
    """The daemon that built the other images, as hack/cluster tells it."""
    lines = hack("docker-env", seconds=120.0).splitlines()
    return dict(line.removeprefix("export ").split("=", 1) for line in lines)


def _pod(name: str, annotations: Mapping[str, str], words: tuple[str, ...]) -> dict[str, Any]:
    pod = client_pod(name, annotations, words)
    pod["spec"]["containers"][0] |= {
        "image": IMAGE,
        "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": MEMORY}},
        # Java keeps a file there, and unpacks what it has of native code.
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    pod["spec"]["volumes"] = [{"name": "tmp", "emptyDir": {}}]
    return pod


def idle_pod(name: str, annotations: Mapping[str, str]) -> dict[str, Any]:
    """To run the clients in."""
    return _pod(name, annotations, IDLE)


def servers(replicas: int) -> dict[str, Any]:
    """The Deployment."""
    words = (PYTHON, "python/server.py", "--host=0.0.0.0", f"--port={PORT}", "--grace=2")
    template = _pod(SERVICE, {}, words)
    container = template["spec"]["containers"][0]
    container["env"] = [{"name": "PYTHONPATH", "value": "stubs"}]
    container["readinessProbe"] = {"tcpSocket": {"port": PORT}, "periodSeconds": 1}
    labels = {"app": SERVICE}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": SERVICE, "labels": labels},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": template["spec"]},
        },
    }
