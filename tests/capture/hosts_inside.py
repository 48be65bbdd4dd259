"""Runs as root in fresh network and mount namespaces (see test_hosts.py) and prints what it saw as JSON.

A pod with capture hosts is made by the injector's own code. Its hostAliases become /etc/hosts as the kubelet
writes them, the sidecar runs with the environment that it was given and no capability, and an unmodified
grpcio client dials each of the Service's names.
"""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from injector.admission.decision import Options, decide, inject

ROOT = Path(__file__).parent.parent.parent
GREETER = ROOT / "examples" / "greeter"
DEADLINE_SECONDS = 60.0
NAMESPACE, PORT, SERVER_PORT = "shop", 50051, 7001
SERVERS = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
NO_CAPABILITIES = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
folder, families = Path(sys.argv[1]), sys.argv[2]


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def set_up_network() -> None:
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "far")
    for device in ("eth0", "far"):
        run("ip", "link", "set", device, "up")
    if "4" in families:
        run("ip", "addr", "add", "10.250.0.2/24", "dev", "eth0")
    if "6" in families:
        run("ip", "-6", "addr", "add", "fd00:250::2/64", "dev", "eth0", "nodad")


def injected_pod() -> dict:
    annotations = {
        "evenstream.dev/inject": "enabled",
        "evenstream.dev/capture": "hosts",
        "evenstream.dev/services": f"greeter:{PORT}",
    }
    pod = {"metadata": {"annotations": annotations}, "spec": {"containers": [{"name": "client"}]}}
    return inject(pod, decide(pod, Options(), NAMESPACE))["spec"]


def write_hosts(aliases: list[dict]) -> None:
    """As the kubelet writes them (pkg/kubelet/kubelet_pods.go), over the namespace's own /etc/hosts."""
    lines = ["# Kubernetes-managed hosts file.", "127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost", ""]
    lines += ["# Entries added by HostAliases."]
    lines += ["\t".join([alias["ip"], *alias["hostnames"]]) for alias in aliases]
    path = folder / "hosts"
    path.write_text("\n".join(lines) + "\n")
    run("mount", "--bind", str(path), "/etc/hosts")


def write_objects() -> Path:
    meta = {"namespace": NAMESPACE, "resourceVersion": "1"}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "greeter", **meta},
        "spec": {
            "clusterIP": "10.96.0.50",
            "clusterIPs": ["10.96.0.50"],
            "ports": [{"name": "g", "port": PORT}],
        },
    }
    endpoints = [{"addresses": [host], "conditions": {"ready": True}} for host in SERVERS]
    slice_ = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "greeter-1", "labels": {"kubernetes.io/service-name": "greeter"}, **meta},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "g", "port": SERVER_PORT, "protocol": "TCP"}],
    }
    path = folder / "objects.json"
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [service, slice_]}))
    return path


def until_open(host: str, port: int) -> None:
    until = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return


def until_all_serve(name: str) -> None:
    """On a busy machine the sidecar may be connected to one server long before the others and give it all."""
    until = time.monotonic() + DEADLINE_SECONDS
    while set(dial(name)) != set(SERVERS):
        assert time.monotonic() < until, dial(name)


def dial(name: str) -> dict[str, int]:
    """Calls by the server that answered, of one unmodified channel."""
    command = [sys.executable, "client.py", "burst", f"--target={name}:{PORT}", "--calls=30", "--json"]
    done = subprocess.run(command, cwd=GREETER, capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    if done.returncode:
        return {done.stdout + done.stderr: 0}
    return json.loads(done.stdout.splitlines()[-1])["calls"]


set_up_network()
pod = injected_pod()
write_hosts(pod["hostAliases"])
(container,) = pod["initContainers"]
environment = {one["name"]: one.get("value", NAMESPACE) for one in container["env"]}
environment["EVENSTREAM_SOURCE"] = f"file:{write_objects()}"
environment["EVENSTREAM_STATE_DIR"] = str(folder)
programs = [
    subprocess.Popen([sys.executable, "server.py", f"--listen={host}:{SERVER_PORT}", f"--name={host}"], cwd=GREETER,
                     stdout=subprocess.DEVNULL)
    for host in SERVERS
]  # fmt: skip
for host in SERVERS:
    until_open(host, SERVER_PORT)
sidecar = [*NO_CAPABILITIES, sys.executable, "-m", "sidecar"]
programs.append(subprocess.Popen(sidecar, cwd=ROOT, env={**os.environ, **environment}))
try:
    for alias in pod["hostAliases"]:
        until_open(alias["ip"], PORT)
    until_all_serve("greeter")
    seen = {name: dial(name) for alias in pod["hostAliases"] for name in alias["hostnames"]}
    json.dump(
        {"privileges": container["securityContext"], "containers": [container["name"]], "calls": seen},
        sys.stdout,
    )
finally:
    for program in programs:
        program.kill()
        program.wait()
