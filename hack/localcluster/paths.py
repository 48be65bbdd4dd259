"""Where everything lies, and the cluster's addresses. No behaviour."""

import os
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
RECIPES = Path(__file__).resolve().parent / "recipes"

# What is slow to make and safe to keep: binaries, the base image, Docker's layers.
CACHE = Path(os.environ.get("EVENSTREAM_CACHE") or Path.home() / ".cache" / "evenstream").absolute()

# The running cluster's data: certificates, etcd, container images, logs. `down` deletes it.
STATE = CACHE / "cluster"
KUBECONFIG = STATE / "kubeconfig"
LOGS = STATE / "logs"

# Sockets and pid files. Below /run, because the path of a Unix socket holds at most 107 bytes and
# because a reboot, which ends the processes, clears it too.
RUN = Path("/run/evenstream")
CONTAINERD_SOCKET = RUN / "containerd.sock"
DOCKER_SOCKET = RUN / "docker.sock"

# One network namespace holds the whole cluster. The machine itself gets one veth and two routes.
NETNS = "evenstream"
HOST_LINK = "evenstream0"
HOST_ADDRESS = "10.244.255.1"
LINK_ADDRESS = "10.244.255.2"
LINK_PREFIX = 30

NODE_NAME = "evenstream"
NODE_ADDRESS = "10.244.0.1"  # the bridge's address; API server, kubelet and node are all here
POD_RANGE = "10.244.0.0/24"
SERVICE_RANGE = "10.96.0.0/16"
KUBERNETES_SERVICE = "10.96.0.1"  # always the first of the range
DNS_SERVICE = "10.96.0.10"
API_PORT = 6443
CLUSTER_DOMAIN = "cluster.local"

# The parent of every pod's cgroup, apart from those of any other kubelet.
CGROUP = "evenstream"
