"""All pods with the sidecar, asked again and again."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Self

from injector.cli.cluster import ApiError, Cluster, namespaced
from injector.cli.forward import AdminPort
from injector.cli.pods import is_running, status_of
from injector.cli.traffic import Look

# Pods asked at a time, each by a websocket of its own.
WORKERS: Final = 16
# Pods come and go; the list is made again this often.
LIST_SECONDS: Final = 15.0


class Clients:
    """Keeps a connection to each sidecar, until left."""

    def __init__(self, cluster: Cluster, most: int) -> None:
        """`most`: pods asked at most; 0 for all."""
        self._cluster = cluster
        self._most = most
        self._ports: dict[str, AdminPort] = {}
        self._listed_at = -LIST_SECONDS
        self._pool = ThreadPoolExecutor(WORKERS, "evenstream")
        self.notes: list[str] = []
        self.left_out = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for port in self._ports.values():
            port.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def look(self) -> Look:
        """Ask all of them now. Raises ApiError if no list of pods is to be had, or none of them answers."""
        now = time.monotonic()
        if now - self._listed_at >= LIST_SECONDS:
            self._list()
            self._listed_at = now
        answers = dict(zip(self._ports, self._pool.map(_status, self._ports.values()), strict=True))
        found = {name: told for name, told in answers.items() if isinstance(told, dict)}
        faults = [told for told in answers.values() if isinstance(told, ApiError)]
        if faults and not found:
            raise faults[0]
        self.notes = [str(fault) for fault in faults]
        return Look(time.monotonic(), found)

    def _list(self) -> None:
        try:
            pods = list(self._cluster.list("/api/v1/pods"))
        except ApiError as error:
            if error.status != 403:
                raise
            # Not allowed for the whole cluster: what is allowed is asked.
            pods = list(self._cluster.list(namespaced("pods", self._cluster.namespace)))
        running = [pod["metadata"] for pod in pods if status_of(pod) is not None and is_running(pod)]
        names = sorted(f"{one['namespace']}/{one['name']}" for one in running)
        chosen = names[: self._most] if self._most else names
        self.left_out = len(names) - len(chosen)
        for gone in self._ports.keys() - set(chosen):
            self._ports.pop(gone).close()
        for name in chosen:
            if name not in self._ports:
                namespace, pod = name.split("/")
                self._ports[name] = AdminPort(self._cluster, namespace, pod)

    @property
    def count(self) -> int:
        return len(self._ports)


def _status(port: AdminPort) -> dict[str, Any] | ApiError:
    try:
        return port.status()
    except ApiError as error:
        return error
