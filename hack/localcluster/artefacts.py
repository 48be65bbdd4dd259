"""What is compiled here, from Go modules, and kept in the cache.

An artefact's folder is named by its version and a hash of its recipe (sources, go.mod, go.sum and
flags): a changed recipe is another folder, so a stale binary is never used.
"""

import hashlib
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from . import paths, shell

KUBERNETES_PROGRAMS = (
    "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl",
)  # fmt: skip

DOWNLOAD_DEADLINE = 900.0  # about 300 MB of modules
BUILD_DEADLINE = 3600.0  # Kubernetes is 10 minutes of CPU on 2 cores, several times that on a busy machine


@dataclass(frozen=True)
class Artefact:
    name: str
    version: str
    flags: str  # for the linker: the version that the program reports
    cost: str
    links: tuple[str, ...] = ()  # further names for the same binary
    package: str = "."  # what is compiled: the recipe's own, or one that its go.mod names

    @property
    def recipe(self) -> Path:
        return paths.RECIPES / self.name

    @property
    def folder(self) -> Path:
        digest = hashlib.sha256(f"{self.flags} {self.links} {platform.machine()}".encode())
        for source in sorted(self.recipe.iterdir()):
            digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
        return paths.CACHE / "bin" / f"{self.name}-{self.version}-{digest.hexdigest()[:12]}"

    @property
    def binary(self) -> Path:
        return self.folder / self.name


KUBERNETES = Artefact(
    "kubernetes", "v1.34.4",
    "-X k8s.io/component-base/version.gitVersion=v1.34.4 -X k8s.io/client-go/pkg/version.gitVersion=v1.34.4",
    "10 minutes of CPU", KUBERNETES_PROGRAMS,
)  # fmt: skip
COREDNS = Artefact(
    "coredns", "v1.12.4", "-X github.com/coredns/coredns/coremain.GitCommit=v1.12.4", "3 minutes of CPU"
)
PAUSE = Artefact("pause", "1", "", "seconds")
# Not for the cluster: the test of the chart, and whoever tries the chart on it. Its libraries of Kubernetes are of the
# version above, so most of what it takes is compiled already. The second line is what it takes for the server's
# version where it renders without one, as its own Makefile sets it.
HELM = Artefact(
    "helm", "v3.19.5",
    "-X helm.sh/helm/v3/internal/version.version=v3.19.5"
    " -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=34"
    " -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor=34",
    "2 minutes of CPU", package="helm.sh/helm/v3/cmd/helm",
)  # fmt: skip


def kubernetes(program: str) -> Path:
    return KUBERNETES.folder / program


def ensure(*wanted: Artefact) -> None:
    """Build what the cache does not have."""
    for artefact in wanted:
        if artefact.folder.is_dir():
            continue
        with shell.lock(paths.CACHE / "bin" / f".{artefact.name}.lock"):
            if not artefact.folder.is_dir():  # another one may have built it while this one waited
                _build(artefact)


def _build(artefact: Artefact) -> None:
    go = shell.find("go")
    if go is None:
        raise shell.ClusterError(
            f"building {artefact.name} needs Go 1.21 or newer on the PATH (it fetches the one it asks for)"
        )
    log = paths.CACHE / "bin" / f"{artefact.name}.log"
    env = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": ""}
    shell.say(f"building {artefact.name} {artefact.version}, once ({artefact.cost}); log: {log}")
    try:
        # Listing the packages fetches their modules, and only those; `go mod download` fetches many more.
        shell.run_logged(
            [go, "list", "-mod=readonly", "-deps", artefact.package],
            log,
            deadline=DOWNLOAD_DEADLINE,
            env=env,
            cwd=artefact.recipe,
        )
    except shell.ClusterError as error:
        raise shell.ClusterError(f"could not download the Go modules of {artefact.name}: {error}") from None
    unfinished = artefact.folder.with_name(artefact.folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    # nice: a build this long should not make the machine unusable.
    command = [
        "nice", go, "build", "-mod=readonly", "-trimpath", "-buildvcs=false",
        "-ldflags", f"-s -w {artefact.flags}", "-o", str(unfinished / artefact.name), artefact.package,
    ]  # fmt: skip
    shell.run_logged(command, log, deadline=BUILD_DEADLINE, env=env, cwd=artefact.recipe)
    for link in artefact.links:
        (unfinished / link).symlink_to(artefact.name)
    unfinished.rename(artefact.folder)
