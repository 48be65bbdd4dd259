"""etcd and kube-apiserver: their flags, and the two alone for tests that need no node (envtest's idea)."""

import json
import os
import secrets
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import artefacts, packages, paths, shell
from .box import Box
from .pki import Authority

LOOPBACK = "127.0.0.1"
ALONE = paths.CACHE / "apiserver"  # where apiserver-up keeps its state unless told otherwise
READY_DEADLINE = 90.0  # 5 s here; a machine that is busy with a build needs several times that
KEEP_SECRET = 0o600

# MutatingAdmissionPolicy is beta and off in 1.34.
FEATURES = (
    "--feature-gates=MutatingAdmissionPolicy=true",
    "--runtime-config=admissionregistration.k8s.io/v1beta1=true",
)


@dataclass(frozen=True)
class ControlPlane:
    """Where etcd and the API server listen, and where their files lie."""

    folder: Path
    address: str
    port: int
    etcd_port: int = 2379
    etcd_peer_port: int = 2380

    @property
    def url(self) -> str:
        return f"https://{self.address}:{self.port}"

    @property
    def authority(self) -> Authority:
        return Authority(self.folder / "pki")

    def create_pki(self) -> None:
        authority = self.authority
        authority.create()
        names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost")
        addresses = {paths.KUBERNETES_SERVICE, self.address, LOOPBACK}
        authority.issue(
            "apiserver", "kube-apiserver",
            addresses=(*(f"DNS:{name}" for name in names), *(f"IP:{each}" for each in sorted(addresses))),
        )  # fmt: skip
        authority.issue("admin", "admin", "system:masters")
        authority.key("service-account")

    def etcd(self) -> dict[str, Any]:
        client = f"http://{LOOPBACK}:{self.etcd_port}"
        peer = f"http://{LOOPBACK}:{self.etcd_peer_port}"
        return {
            "name": "etcd",
            "command": [
                shell.need("etcd"), "--name=default", f"--data-dir={self.folder / 'etcd'}",
                f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
                f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}", "--unsafe-no-fsync", "--log-level=warn",
            ],
        }  # fmt: skip

    def apiserver(self, *more: str) -> dict[str, Any]:
        pki = self.folder / "pki"
        return {
            "name": "kube-apiserver",
            "needs": f"{LOOPBACK}:{self.etcd_port}",
            "command": [
                str(artefacts.kubernetes("kube-apiserver")),
                f"--etcd-servers=http://{LOOPBACK}:{self.etcd_port}",
                f"--bind-address={self.address}", f"--advertise-address={self.address}",
                f"--secure-port={self.port}",
                f"--service-cluster-ip-range={paths.SERVICE_RANGE}",
                f"--tls-cert-file={pki}/apiserver.crt", f"--tls-private-key-file={pki}/apiserver.key",
                f"--client-ca-file={pki}/ca.crt",
                f"--service-account-issuer=https://kubernetes.default.svc.{paths.CLUSTER_DOMAIN}",
                f"--service-account-signing-key-file={pki}/service-account.key",
                f"--service-account-key-file={pki}/service-account.key",
                "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
                "--allow-privileged",
                *FEATURES, *more,
            ],
        }  # fmt: skip


def free_ports(count: int) -> list[int]:
    """Ports free a moment ago. All are held until all are chosen, so that they differ."""
    held = []
    for _ in range(count):
        held.append(socket.create_server((LOOPBACK, 0)))
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


def ready(kubeconfig: Path) -> bool:
    command = [
        artefacts.kubernetes("kubectl"),
        f"--kubeconfig={kubeconfig}",
        "get",
        "--raw=/readyz",
        "--request-timeout=2s",
    ]
    return shell.run(command, check=False, env=without_proxy()).returncode == 0


def without_proxy() -> dict[str, str]:
    """A proxy for the outside world cannot reach these addresses."""
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}


def up(folder: Path, while_pid: int | None) -> dict[str, Any]:
    """Start the two on free loopback ports; what a client needs to know is returned and kept."""
    packages.ensure(packages.APISERVER_PROGRAMS)
    artefacts.ensure(artefacts.KUBERNETES)
    folder = folder.absolute()
    box = Box(folder / "box")
    facts = folder / "facts.json"
    with shell.lock(folder.with_name(folder.name + ".lock")):
        if box.pid() is not None and facts.exists():
            return dict(json.loads(facts.read_text()))
        _clear(folder)
        ports = free_ports(3)
        plane = ControlPlane(folder, LOOPBACK, *ports)
        plane.create_pki()
        token = secrets.token_hex()
        tokens = folder / "tokens.csv"
        shell.write(tokens, f"{token},admin,admin,system:masters\n", KEEP_SECRET)
        pki = plane.authority.folder
        kubeconfig = plane.authority.kubeconfig(
            folder / "kubeconfig", name="evenstream-apiserver", server=plane.url, user="admin"
        )
        logs = folder / "logs"
        plan = {
            "programs": [
                plane.etcd(),
                # Service accounts get no token volume and no pod runs here: nothing waits for a controller.
                plane.apiserver(f"--token-auth-file={tokens}", "--disable-admission-plugins=ServiceAccount"),
            ],
            "logs": str(logs),
            "while": while_pid,
        }
        box.start(plan, private=False)
        try:
            shell.wait_for("the API server is ready", lambda: ready(kubeconfig), READY_DEADLINE)
        except shell.ClusterError as error:
            box.stop(gently=False)
            raise shell.ClusterError(f"{error}\n{shell.tail(logs / 'kube-apiserver.log')}") from None
        answer: dict[str, Any] = {
            "url": plane.url,
            "ca": str(pki / "ca.crt"),
            "client_cert": str(pki / "admin.crt"),
            "client_key": str(pki / "admin.key"),
            "token": token,
            "kubeconfig": str(kubeconfig),
            "kubectl": str(artefacts.kubernetes("kubectl")),
            "logs": str(logs),
        }
        shell.write(facts, json.dumps(answer), KEEP_SECRET)
        return answer


def down(folder: Path) -> None:
    folder = folder.absolute()
    Box(folder / "box").stop(gently=False)
    _clear(folder)
    folder.with_name(folder.name + ".lock").unlink(missing_ok=True)


def _clear(folder: Path) -> None:
    """Remove what `up` made, and nothing else: the folder may be somebody's own."""
    for name in ("box", "pki", "etcd", "logs"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("facts.json", "tokens.csv", "kubeconfig"):
        (folder / name).unlink(missing_ok=True)
