"""One node with everything on it: its network, its configuration, its programs; up, down, and what runs.

The whole cluster lives in one network namespace and one box (see box.py). So it changes nothing of the
machine's own firewall, its ports are nobody else's, and the machine reaches it by one veth and two routes:

    machine  evenstream0 10.244.255.1 ---- 10.244.255.2 eth0 |  cni0 10.244.0.1 -- pods 10.244.0.0/24
             routes: pods and services via 10.244.255.2       |  services 10.96.0.0/16 -> cni0 (kube-proxy)

The namespace has no default route: no packet of a pod leaves the machine.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import apiserver, artefacts, images, packages, paths, shell
from .apiserver import ControlPlane, without_proxy
from .box import Box

BOX = Box(paths.RUN / "node")
PLANE = ControlPlane(paths.STATE, paths.NODE_ADDRESS, paths.API_PORT)
LOCK = paths.CACHE / "cluster.lock"
READY = paths.STATE / "ready"  # written last: without it `up` was cut short, and the next one starts anew

# About 20 s in all here; a machine that is busy with a build needs several times that.
NODE_DEADLINE = 120.0
DNS_DEADLINE = 120.0
END_DEADLINE = 15.0  # killed processes, until the kernel has cleaned up after the last

# What the programs put at fixed paths goes to folders of the cluster's own, seen only inside the box.
TEMPORARY_MOUNTS = ("/run/containerd", "/run/netns", "/var/lib/cni")
STATE_MOUNTS = {
    "/var/lib/kubelet": "kubelet",
    "/var/log/pods": "pod-logs",
    "/var/log/containers": "container-logs",
}

CONTAINERD = """\
version = 2
root = "{state}/containerd"
state = "/run/containerd/state"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # Where a negative score is refused, runc would fail to start the pod's first process.
  restrict_oom_score_adj = true
  enable_selinux = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni}"
    conf_dir = "{state}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"""


def running() -> bool:
    return BOX.pid() is not None


def kubectl(
    *words: str, check: bool = True, stdin: str | None = None, deadline: float = shell.COMMAND_DEADLINE
) -> str:
    command = [artefacts.kubernetes("kubectl"), f"--kubeconfig={paths.KUBECONFIG}", *words]
    done = shell.run(command, check=check, stdin=stdin, deadline=deadline, env=without_proxy())
    return done.stdout if done.returncode == 0 else ""


# Up ---------------------------------------------------------------------------------------------------------


def up() -> bool:
    """Start the cluster; False if it ran already."""
    need_root()
    with shell.lock(LOCK):
        if running() and READY.exists() and healthy():
            return False
        packages.ensure(packages.CLUSTER_PROGRAMS, cni=True)
        artefacts.ensure(artefacts.KUBERNETES, artefacts.COREDNS, artefacts.PAUSE)
        _clean()  # what a broken start or a killed cluster left
        check_addresses()
        try:
            _start()
        except (shell.ClusterError, KeyboardInterrupt):
            shell.say(f"not started; logs stay in {paths.LOGS} until the next up or down")
            with contextlib.suppress(shell.ClusterError):
                _end_processes()
            raise
    return True


def need_root() -> None:
    if os.geteuid() != 0:
        raise shell.ClusterError(
            "a local cluster needs root (namespaces, mounts): run it with sudo --preserve-env=HOME,PATH"
        )


def healthy() -> bool:
    return paths.KUBECONFIG.exists() and apiserver.ready(paths.KUBECONFIG)


def check_addresses() -> None:
    """Somebody else's use of the same addresses would be hidden by our routes."""
    for address in (paths.NODE_ADDRESS, paths.KUBERNETES_SERVICE, paths.HOST_ADDRESS):
        route = shell.run(["ip", "-json", "route", "get", address], check=False)
        for each in json.loads(route.stdout or "[]") if route.returncode == 0 else []:
            if "gateway" not in each and each.get("dev") != paths.HOST_LINK:
                raise shell.ClusterError(
                    f"{address} is in use on this machine already (device {each.get('dev')})"
                )


def _start() -> None:
    started = time.monotonic()
    for folder in ("containerd", "etcd", *STATE_MOUNTS.values()):
        (paths.STATE / folder).mkdir(parents=True, exist_ok=True)
    for folder in (*TEMPORARY_MOUNTS, *STATE_MOUNTS):
        Path(folder).mkdir(parents=True, exist_ok=True)
    _configure()
    _network()
    _cgroups()
    BOX.start(
        {"setup": list(_mounts()), "programs": list(_programs()), "logs": str(paths.LOGS)},
        private=True,
        netns=paths.NETNS,
    )
    images.import_files(images.pause_file(), images.coredns_file())
    try:
        shell.wait_for("the API server is ready", healthy, NODE_DEADLINE)
    except shell.ClusterError as error:
        raise shell.ClusterError(f"{error}\n{shell.tail(paths.LOGS / 'kube-apiserver.log')}") from None
    manifest = (paths.RECIPES / "coredns.yaml").read_text()
    values = {"address": paths.DNS_SERVICE, "domain": paths.CLUSTER_DOMAIN, "image": images.COREDNS}
    for name, value in values.items():
        manifest = manifest.replace(f"@{name}@", value)
    kubectl("apply", "--server-side", "--filename=-", stdin=manifest)
    try:
        shell.wait_for("the node is ready", node_ready, NODE_DEADLINE)
    except shell.ClusterError as error:
        raise shell.ClusterError(f"{error}\n{shell.tail(paths.LOGS / 'kubelet.log')}") from None
    seconds = f"{DNS_DEADLINE:.0f}s"
    kubectl(
        "--namespace=kube-system", "rollout", "status", "deployment/coredns", f"--timeout={seconds}",
        deadline=DNS_DEADLINE + shell.COMMAND_DEADLINE,
    )  # fmt: skip
    # A pod created before this exists would be refused.
    shell.wait_for(
        "the default service account exists",
        lambda: bool(kubectl("get", "serviceaccount", "default", check=False)),
        NODE_DEADLINE,
    )
    shell.write(READY, "")
    shell.say(f"node ready, cluster DNS ready after {time.monotonic() - started:.0f} s")


def node_ready() -> bool:
    path = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'
    return kubectl("get", "node", paths.NODE_NAME, f"--output={path}", check=False) == "True"


def _configure() -> None:
    """Certificates, and one configuration file per program that wants one."""
    PLANE.create_pki()
    authority = PLANE.authority
    authority.issue("kubelet-client", "kube-apiserver-kubelet-client", "system:masters")
    authority.issue(
        "kubelet-server", paths.NODE_NAME, addresses=(f"DNS:{paths.NODE_NAME}", f"IP:{paths.NODE_ADDRESS}")
    )
    users = {
        "kubelet": (f"system:node:{paths.NODE_NAME}", "system:nodes"),
        "kube-controller-manager": ("system:kube-controller-manager", ""),
        "kube-scheduler": ("system:kube-scheduler", ""),
        "kube-proxy": ("system:kube-proxy", ""),
    }
    for name, (user, group) in users.items():
        authority.issue(name, user, group)
        authority.kubeconfig(_kubeconfig(name), name=paths.NODE_NAME, server=PLANE.url, user=name)
    authority.kubeconfig(paths.KUBECONFIG, name=paths.NODE_NAME, server=PLANE.url, user="admin")

    cni = packages.cni_directory()
    shell.write(
        paths.STATE / "containerd.toml",
        CONTAINERD.format(state=paths.STATE, socket=paths.CONTAINERD_SOCKET, pause=images.PAUSE, cni=cni),
    )
    for name, content in (
        ("cni/10-evenstream.conflist", CNI),
        ("kubelet.json", KUBELET),
        ("kube-proxy.json", KUBE_PROXY),
    ):
        shell.write(paths.STATE / name, json.dumps(content, indent=2))


def _kubeconfig(name: str) -> Path:
    return paths.STATE / "pki" / f"{name}.kubeconfig"


CNI: dict[str, Any] = {
    "cniVersion": "0.4.0",
    "name": "evenstream",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "hairpinMode": True,  # a pod may reach itself through its Service
            "ipMasq": False,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": paths.POD_RANGE, "gateway": paths.NODE_ADDRESS}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}

KUBELET: dict[str, Any] = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "address": paths.NODE_ADDRESS,
    "readOnlyPort": 0,
    "healthzPort": 10248,
    "authentication": {
        "anonymous": {"enabled": False},
        "webhook": {"enabled": True},
        "x509": {"clientCAFile": str(paths.STATE / "pki/ca.crt")},
    },
    "authorization": {"mode": "Webhook"},
    "tlsCertFile": str(paths.STATE / "pki/kubelet-server.crt"),
    "tlsPrivateKeyFile": str(paths.STATE / "pki/kubelet-server.key"),
    "containerRuntimeEndpoint": f"unix://{paths.CONTAINERD_SOCKET}",
    "clusterDNS": [paths.DNS_SERVICE],
    "clusterDomain": paths.CLUSTER_DOMAIN,
    "resolvConf": "",  # the machine's own name servers cannot be reached from a pod
    "cgroupDriver": "cgroupfs",
    "cgroupRoot": f"/{paths.CGROUP}",
    "failCgroupV1": False,
    "failSwapOn": False,
    "localStorageCapacityIsolation": False,
    # Images are loaded by hand and can be pulled from nowhere: never collect them, and never evict a pod
    # because the machine's disk is full of other things.
    "imageGCHighThresholdPercent": 100,
    "imageGCLowThresholdPercent": 99,
    "evictionHard": {"nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%"},
    "serializeImagePulls": False,
    "syncFrequency": "10s",
    # A Secret or ConfigMap that changes is in the pod at the next sync.
    "configMapAndSecretChangeDetectionStrategy": "Watch",
    "shutdownGracePeriod": "0s",
}

KUBE_PROXY: dict[str, Any] = {
    "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
    "kind": "KubeProxyConfiguration",
    "mode": "iptables",
    "bindAddress": paths.NODE_ADDRESS,
    "healthzBindAddress": "127.0.0.1:10256",
    "metricsBindAddress": "127.0.0.1:10249",
    "hostnameOverride": paths.NODE_NAME,
    "clusterCIDR": paths.POD_RANGE,
    "clientConnection": {"kubeconfig": str(_kubeconfig("kube-proxy"))},
    # These limits are the machine's, not the namespace's: leave them alone.
    "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    # A changed EndpointSlice is in force at once; the default waits up to a second.
    "iptables": {"minSyncPeriod": "100ms"},
}


def _programs() -> Iterator[dict[str, Any]]:
    api = f"{paths.NODE_ADDRESS}:{paths.API_PORT}"
    pki = paths.STATE / "pki"
    yield PLANE.etcd()
    yield {
        "name": "containerd",
        "command": [shell.need("containerd"), f"--config={paths.STATE / 'containerd.toml'}"],
    }
    yield PLANE.apiserver(
        f"--kubelet-client-certificate={pki}/kubelet-client.crt",
        f"--kubelet-client-key={pki}/kubelet-client.key",
        f"--kubelet-certificate-authority={pki}/ca.crt",
        "--kubelet-preferred-address-types=InternalIP",
    )
    yield {
        "name": "kube-controller-manager",
        "needs": api,
        "command": [
            str(artefacts.kubernetes("kube-controller-manager")),
            f"--kubeconfig={_kubeconfig('kube-controller-manager')}", "--bind-address=127.0.0.1",
            "--leader-elect=false", "--use-service-account-credentials",
            f"--service-account-private-key-file={pki}/service-account.key", f"--root-ca-file={pki}/ca.crt",
            f"--cluster-signing-cert-file={pki}/ca.crt", f"--cluster-signing-key-file={pki}/ca.key",
        ],
    }  # fmt: skip
    yield {
        "name": "kube-scheduler",
        "needs": api,
        "command": [
            str(artefacts.kubernetes("kube-scheduler")), f"--kubeconfig={_kubeconfig('kube-scheduler')}",
            "--bind-address=127.0.0.1", "--leader-elect=false",
        ],
    }  # fmt: skip
    yield {
        "name": "kubelet",
        "needs": api,
        "command": [
            str(artefacts.kubernetes("kubelet")), f"--kubeconfig={_kubeconfig('kubelet')}",
            f"--config={paths.STATE / 'kubelet.json'}", f"--hostname-override={paths.NODE_NAME}",
            f"--node-ip={paths.NODE_ADDRESS}",
        ],
    }  # fmt: skip
    yield {
        "name": "kube-proxy",
        "needs": api,
        "command": [str(artefacts.kubernetes("kube-proxy")), f"--config={paths.STATE / 'kube-proxy.json'}"],
    }


def _mounts() -> Iterator[list[str]]:
    for path in TEMPORARY_MOUNTS:
        yield ["mount", "-t", "tmpfs", "tmpfs", path]
    for path, folder in STATE_MOUNTS.items():
        yield ["mount", "--bind", str(paths.STATE / folder), path]


def _network() -> None:
    inside = ["ip", "-netns", paths.NETNS]
    for command in (
        ["ip", "netns", "add", paths.NETNS],
        [*inside, "link", "set", "lo", "up"],
        [*inside, "link", "add", "cni0", "type", "bridge"],
        [*inside, "address", "add", f"{paths.NODE_ADDRESS}/24", "dev", "cni0"],
        [*inside, "link", "set", "cni0", "up"],
        # kube-proxy rewrites these addresses; what it has no rule for must end here.
        [*inside, "route", "add", paths.SERVICE_RANGE, "dev", "cni0"],
        ["ip", "link", "add", paths.HOST_LINK, "type", "veth", "peer", "name", "eth0", "netns", paths.NETNS],
        [*inside, "address", "add", f"{paths.LINK_ADDRESS}/{paths.LINK_PREFIX}", "dev", "eth0"],
        [*inside, "link", "set", "eth0", "up"],
        ["ip", "address", "add", f"{paths.HOST_ADDRESS}/{paths.LINK_PREFIX}", "dev", paths.HOST_LINK],
        ["ip", "link", "set", paths.HOST_LINK, "up"],
        ["ip", "route", "add", paths.POD_RANGE, "via", paths.LINK_ADDRESS],
        ["ip", "route", "add", paths.SERVICE_RANGE, "via", paths.LINK_ADDRESS],
        ["ip", "netns", "exec", paths.NETNS, "sysctl", "--quiet", "--write", "net.ipv4.ip_forward=1"],
    ):
        shell.run(command)


# Down -------------------------------------------------------------------------------------------------------


def down() -> None:
    need_root()
    with shell.lock(LOCK):
        _clean()


def _clean() -> None:
    """Every step stands alone, so that it clears a half-started or killed cluster as well."""
    _end_processes()
    for name in _names(["ip", "-json", "link", "show"], "ifname"):
        if name == paths.HOST_LINK:
            shell.run(["ip", "link", "delete", name])  # its routes go with it
    if paths.NETNS in _names(["ip", "-json", "netns", "list"], "name"):
        shell.run(["ip", "netns", "delete", paths.NETNS])
    # Mounts of the box are its own; these exist only if somebody entered it and leaked one.
    for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
        point = line.split()[1]
        if Path(point).is_relative_to(paths.STATE):
            shell.run(["umount", "--lazy", point])
    _remove_cgroups()
    shutil.rmtree(paths.STATE, ignore_errors=True)
    paths.CONTAINERD_SOCKET.unlink(missing_ok=True)
    Path(f"{paths.CONTAINERD_SOCKET}.ttrpc").unlink(missing_ok=True)
    shutil.rmtree(BOX.folder, ignore_errors=True)


def _end_processes() -> None:
    BOX.stop(gently=False)  # nothing inside is worth a goodbye
    if paths.NETNS not in _names(["ip", "-json", "netns", "list"], "name"):
        return

    # Whatever still runs in the namespace is ours: nobody else has a reason to be there.
    def gone() -> bool:
        pids = shell.run(["ip", "netns", "pids", paths.NETNS], check=False).stdout.split()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        return not pids

    shell.wait_for("all processes of the cluster ended", gone, END_DEADLINE)


def _names(command: list[str], key: str) -> list[str]:
    text = shell.run(command, check=False).stdout
    return [each[key] for each in json.loads(text or "[]") if key in each]


def _cgroup_roots() -> list[Path]:
    """One folder per controller in version 1, a single one in version 2."""
    top = Path("/sys/fs/cgroup")
    if (top / "cgroup.controllers").exists():
        return [top]
    return [
        each for each in sorted(top.iterdir()) if (each / "cgroup.procs").exists() and not each.is_symlink()
    ]


def _cgroups() -> None:
    for root in _cgroup_roots():
        folder = root / paths.CGROUP
        folder.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):  # version 1 starts them empty, and then nothing can run
            if (
                (folder / "tasks").exists()
                and (folder / name).exists()
                and not (folder / name).read_text().strip()
            ):
                (folder / name).write_text((root / name).read_text())
        if (root / "cgroup.subtree_control").exists() and (root / "cgroup.controllers").exists():
            for controller in (root / "cgroup.controllers").read_text().split():
                with contextlib.suppress(OSError):  # those in use elsewhere stay as they are
                    (root / "cgroup.subtree_control").write_text(f"+{controller}")
                with contextlib.suppress(OSError):
                    (folder / "cgroup.subtree_control").write_text(f"+{controller}")


def _remove_cgroups() -> None:
    for root in _cgroup_roots():
        top = root / paths.CGROUP
        if not top.exists():
            continue

        def removed(top: Path = top) -> bool:
            for folder, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):  # busy until its last process is reaped
                    Path(folder).rmdir()
            return not top.exists()

        shell.wait_for(f"{top} is empty", removed, END_DEADLINE)


# Status -----------------------------------------------------------------------------------------------------


def status() -> bool:
    """Print what runs; True if all of it does."""
    if not running():
        print("local cluster: not running")
        return False
    programs = BOX.programs()
    good = bool(programs)
    print(f"local cluster: Kubernetes {artefacts.KUBERNETES.version}, CoreDNS {artefacts.COREDNS.version}")
    print(f"kubeconfig: {paths.KUBECONFIG}\nlogs: {paths.LOGS}\n")
    for name, each in programs.items():
        state = "running" if each["pid"] else "STOPPED"
        good = good and bool(each["pid"])
        again = f", started {each['starts']} times" if each["starts"] > 1 else ""
        print(f"  {name:24} {state}{again}")
    if not healthy():
        print("\nthe API server does not answer")
        return False
    print()
    for words in (("get", "nodes", "--output=wide"), ("get", "pods", "--all-namespaces", "--output=wide")):
        print(kubectl(*words))
    return good and node_ready()


def enter(words: list[str]) -> int:
    """Run a command where the cluster lives: its network, its mounts, its processes."""
    need_root()
    first = BOX.first()
    if first is None:
        raise shell.ClusterError("no local cluster runs: hack/cluster up")
    command = [shell.need("nsenter"), f"--target={first}", "--net", "--mount", "--pid", "--", *words]
    return subprocess.run(command, check=False).returncode
