"""A Kubernetes cluster as the tests see it: kubectl for what people type, and the API itself, through
`kubectl proxy`, for what is asked often or measured.

Nothing here knows of Evenstream.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from localcluster import artefacts

ROOT: Final = Path(__file__).resolve().parents[2]
CLUSTER: Final = ROOT / "hack" / "cluster"

COMMAND_SECONDS: Final = 60.0  # one kubectl command on a busy machine
# The first start compiles Kubernetes (10 to 30 minutes); a warm one takes 15 s.
UP_SECONDS: Final = 3600.0
IMAGES_SECONDS: Final = 2400.0  # the sidecar's compiled build alone takes minutes on two busy cores
PROXY_SECONDS: Final = 15.0
ANSWER_SECONDS: Final = 30.0  # one request to the API server
POLL_SECONDS: Final = 0.05

Json = dict[str, Any]
T = TypeVar("T")


class KubeError(Exception):
    """A command or request failed, or a condition did not come true in time; the text says which and how."""


def wait_for(what: str, condition: Callable[[], T], seconds: float, every: float = POLL_SECONDS) -> T:
    """The first true value of `condition()`. Raises KubeError naming `what` after `seconds`.

    A KubeError of the condition itself counts as "not yet", and is told if time runs out.
    """
    deadline = time.monotonic() + seconds
    while True:
        last = ""
        try:
            found = condition()
        except KubeError as error:
            last = f"; the last look failed: {error}"
        else:
            if found:
                return found
        if time.monotonic() >= deadline:
            raise KubeError(f"not within {seconds:g} s: {what}{last}")
        time.sleep(every)


def without_proxy() -> dict[str, str]:
    """Our environment without proxies, which are for the world outside."""
    return {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}


class Kubectl:
    """kubectl with the arguments that choose the cluster."""

    def __init__(self, *words: str) -> None:
        self.words: Final = words

    def try_(
        self, *words: str, stdin: str | None = None, seconds: float = COMMAND_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Run it whatever the outcome. Raises KubeError only if it does not end in time."""
        try:
            return subprocess.run(
                [*self.words, *words],
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
                env=without_proxy(),
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise KubeError(f"kubectl {' '.join(words)}: no end within {seconds:g} s") from None

    def __call__(self, *words: str, stdin: str | None = None, seconds: float = COMMAND_SECONDS) -> str:
        """Its standard output. Raises KubeError with what it said if it failed."""
        done = self.try_(*words, stdin=stdin, seconds=seconds)
        if done.returncode:
            said = f"{done.stderr}\n{done.stdout[-2000:]}".strip()
            raise KubeError(f"kubectl {' '.join(words)}: {said}")
        return done.stdout

    def start(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        """Run it in the background, with the keywords of Popen."""
        # Ctrl-C goes to the terminal's foreground group: we alone shall get it, and end the others in order.
        return subprocess.Popen(
            [*self.words, *words], text=True, env=without_proxy(), start_new_session=True, **options
        )


class Event(NamedTuple):
    """One event of a watch. `at`: time.monotonic() when it came in."""

    at: float
    kind: str
    object: Json


class Api:
    """The API server through `kubectl proxy`, which knows every way to log in. Use from any thread."""

    def __init__(self, kubectl: Kubectl) -> None:
        self._proxy = kubectl.start(
            "proxy", "--port=0", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
        self._local = threading.local()
        self.address = wait_for("kubectl proxy says its port", self._started, PROXY_SECONDS)

    def _started(self) -> tuple[str, int]:
        assert self._proxy.stdout is not None
        line = self._proxy.stdout.readline()
        prefix = "Starting to serve on "
        if not line.startswith(prefix):
            raise KubeError(f"kubectl proxy: {line.strip() or 'ended'}")
        host, _, port = line.removeprefix(prefix).strip().rpartition(":")
        return host, int(port)

    def close(self) -> None:
        self._proxy.terminate()
        self._proxy.wait(timeout=PROXY_SECONDS)

    def connection(self, seconds: float | None = ANSWER_SECONDS) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(*self.address, timeout=seconds)

    def request(
        self, method: str, path: str, body: object = None, kind: str = "application/json"
    ) -> tuple[int, Json]:
        """Status and JSON of one request, over this thread's own kept connection.

        Raises KubeError if there is no answer.
        """
        text = None if body is None else json.dumps(body)
        headers = {"Content-Type": kind} if text is not None else {}
        for last in (False, True):
            kept = getattr(self._local, "connection", None)
            connection = kept or self.connection()
            self._local.connection = None
            try:
                connection.request(method, path, text, headers)
                answer = connection.getresponse()
                data = answer.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                # One that was kept may have been closed meanwhile; a new one has no such excuse.
                if last or kept is None:
                    raise KubeError(f"{method} {path}: {error or type(error).__name__}") from None
                continue
            self._local.connection = connection
            try:
                return answer.status, json.loads(data)
            except ValueError:
                return answer.status, {"message": data.decode(errors="replace").strip()}
        raise AssertionError("unreachable")

    def _good(self, method: str, path: str, body: object = None, kind: str = "application/json") -> Json:
        status, answer = self.request(method, path, body, kind)
        if status >= 300:
            raise KubeError(f"{method} {path}: HTTP {status}: {answer.get('message', '')}")
        return answer

    def get(self, path: str) -> Json:
        return self._good("GET", path)

    def find(self, path: str) -> Json | None:
        """What stands at `path`, or None if nothing does."""
        status, answer = self.request("GET", path)
        if status == 404:
            return None
        if status >= 300:
            raise KubeError(f"GET {path}: HTTP {status}: {answer.get('message', '')}")
        return answer

    def items(self, path: str) -> list[Json]:
        return list(self.get(path)["items"])

    def create(self, path: str, thing: Json) -> Json:
        return self._good("POST", path, thing)

    def put(self, path: str, thing: Json) -> Json:
        return self._good("PUT", path, thing)

    def patch(self, path: str, change: Json) -> Json:
        return self._good("PATCH", path, change, "application/merge-patch+json")

    def delete(self, path: str) -> None:
        """Gone already is as good."""
        status, answer = self.request("DELETE", path)
        if status >= 300 and status != 404:
            raise KubeError(f"DELETE {path}: HTTP {status}: {answer.get('message', '')}")

    def watch(self, path: str) -> Watch:
        """Everything that happens in the collection at `path` from now on."""
        return Watch(self, path)


class Watch:
    """A watch in a thread of its own; `events` grows, after what was `listed` at first. For the length of one
    test: it is not started again."""

    def __init__(self, api: Api, path: str) -> None:
        self.events: list[Event] = []
        first = api.get(path)
        self.listed: list[Json] = first["items"]
        version = first["metadata"]["resourceVersion"]
        joint = "&" if "?" in path else "?"
        self._connection = api.connection(None)
        self._connection.connect()
        self._socket = self._connection.sock
        self._connection.request("GET", f"{path}{joint}watch=1&resourceVersion={version}")
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            answer = self._connection.getresponse()
            for line in answer:
                event = json.loads(line)
                self.events.append(Event(time.monotonic(), event["type"], event["object"]))
        except (OSError, ValueError, AttributeError, http.client.HTTPException):
            return  # closed

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        # A close would wait for the reader, which waits for bytes; this ends its wait.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(timeout=ANSWER_SECONDS)
        self._connection.close()


class Cluster:
    """`local`: it is hack/cluster's own, so its parts may be stopped and started."""

    def __init__(self, kubectl: Kubectl, context: str) -> None:
        self.kubectl: Final = kubectl
        self.context: Final = context
        self.local: Final = not context
        self.api: Final = Api(kubectl)

    def close(self) -> None:
        self.api.close()

    def namespace(self, name: str) -> Namespace:
        return Namespace(self, name)


def hack(*words: str, seconds: float, show: bool = False) -> str:
    """Run hack/cluster; its standard output. Its progress goes to our standard error if `show`."""
    done = subprocess.run(
        [sys.executable, CLUSTER, *words],
        stdout=subprocess.PIPE,
        stderr=None if show else subprocess.PIPE,
        text=True,
        timeout=seconds,
        check=False,
    )
    if done.returncode:
        raise KubeError(f"hack/cluster {' '.join(words)}: {(done.stderr or 'failed').strip()}")
    return done.stdout


def find(context: str, *, show: bool = False) -> Cluster:
    """The cluster behind `context`; empty: the local one, started if it does not run."""
    hack("up", seconds=UP_SECONDS, show=show)
    if context:
        return Cluster(Kubectl("kubectl", f"--context={context}"), context)
    kubeconfig = hack("kubeconfig", seconds=COMMAND_SECONDS).strip()
    return Cluster(Kubectl(_kubectl(), f"--kubeconfig={kubeconfig}"), "")


def _kubectl() -> str:
    """The one that hack/cluster built fits its API server; one on PATH may be years older."""
    built = artefacts.kubernetes("kubectl")
    found = str(built) if built.exists() else shutil.which("kubectl")
    if not found:
        raise KubeError("no kubectl, neither built by hack/cluster nor on PATH")
    return found


class Namespace:
    """One namespace and what is asked of it most."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster: Final = cluster
        self.name: Final = name
        self.api: Final = cluster.api

    def kubectl(self, *words: str, stdin: str | None = None, seconds: float = COMMAND_SECONDS) -> str:
        return self.cluster.kubectl("--namespace", self.name, *words, stdin=stdin, seconds=seconds)

    def path(self, resource: str, name: str = "", query: str = "") -> str:
        """Of `pods`, or with its group, `apps/v1/deployments`."""
        group, _, plural = resource.rpartition("/")
        top = f"/apis/{group}" if group else "/api/v1"
        end = f"/{name}" if name else ""
        return f"{top}/namespaces/{self.name}/{plural}{end}" + (f"?{query}" if query else "")

    def apply(self, *things: Json) -> str:
        return self.kubectl("apply", "-f", "-", stdin=json.dumps(_list_of(things)))

    def delete(self, resource: str, name: str, *, grace: int | None = None) -> None:
        query = "" if grace is None else f"gracePeriodSeconds={grace}"
        self.api.delete(self.path(resource, name, query))

    def pods(self, label: str) -> list[Json]:
        """The pods with that `app` label that are not on their way out."""
        listed = self.api.items(self.path("pods", query=f"labelSelector=app%3D{label}"))
        return [pod for pod in listed if "deletionTimestamp" not in pod["metadata"]]

    def pod(self, name: str) -> Json:
        return self.api.get(self.path("pods", name))

    def wait_ready(self, name: str, seconds: float) -> Json:
        """The pod, once it is Ready. Raises KubeError with its state if that takes too long."""

        def look() -> Json | None:
            pod = self.pod(name)
            if is_ready(pod):
                return pod
            raise KubeError(f"pod {name}: {describe(pod)}")

        found = wait_for(f"pod {name} is Ready", look, seconds)
        assert found is not None
        return found

    def wait_gone(self, resource: str, name: str, seconds: float) -> None:
        path = self.path(resource, name)
        wait_for(f"{path} is gone", lambda: self.api.find(path) is None, seconds)

    def scale(self, deployment: str, replicas: int) -> None:
        self.api.patch(
            self.path("apps/v1/deployments", deployment) + "/scale", {"spec": {"replicas": replicas}}
        )

    def endpoints(self, service: str) -> dict[str, str]:
        """Pod by pod, what the Service's EndpointSlices say: ready, terminating or not ready."""
        query = f"labelSelector=kubernetes.io/service-name%3D{service}"
        found: dict[str, str] = {}
        for piece in self.api.items(self.path("discovery.k8s.io/v1/endpointslices", query=query)):
            found |= endpoints_of(piece)
        return found

    def execute(
        self,
        pod: str,
        container: str,
        *words: str,
        stdin: str | None = None,
        seconds: float = COMMAND_SECONDS,
    ) -> str:
        """Standard output of a command in a container. Raises KubeError if it fails."""
        interactive = ["-i"] if stdin is not None else []
        return self.kubectl(
            "exec", *interactive, pod, "-c", container, "--", *words, stdin=stdin, seconds=seconds
        )

    def logs(self, pod: str, container: str, *options: str) -> str:
        return self.kubectl("logs", pod, "-c", container, *options)

    def sidecar_status(self, pod: str) -> Json:
        """/status of the pod's sidecar, asked from inside, where all of it is told."""
        ask = (
            "import urllib.request as r;"
            "print(r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:15020/status').read().decode())"
        )
        return dict(json.loads(self.execute(pod, "evenstream", "python3", "-c", ask)))


def _list_of(things: Sequence[Json]) -> Json:
    return {"apiVersion": "v1", "kind": "List", "items": list(things)}


def endpoints_of(piece: Json) -> dict[str, str]:
    """Of one EndpointSlice: pod name (or first address) to ready, terminating or not ready."""
    found = {}
    for endpoint in piece.get("endpoints") or ():
        conditions = endpoint.get("conditions") or {}
        name = (endpoint.get("targetRef") or {}).get("name") or endpoint["addresses"][0]
        if conditions.get("terminating"):
            found[name] = "terminating"
        else:
            found[name] = "not ready" if conditions.get("ready") is False else "ready"
    return found


def is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def describe(pod: Mapping[str, Any]) -> str:
    """Phase and, for each container, what it does or why it does not."""
    status = pod.get("status", {})
    parts = [str(status.get("phase", "unknown"))]
    for each in [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]:
        state, detail = next(iter(each.get("state", {}).items()), ("unknown", {}))
        reason = detail.get("reason", "")
        parts.append(f"{each['name']} {state}{f' ({reason})' if reason else ''}")
    return ", ".join(parts)
