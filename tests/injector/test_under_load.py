"""Fifty admissions a second while the certificates change twice: none fails, and the p99 is printed."""

import datetime
import json
import queue
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from fake_cluster import FakeCluster
from serving import Injector, connect, patch_of, review
from test_serve import POD

from injector import certs
from injector.__main__ import SECRET

RATE = 50
WORKERS = 8
DEADLINE_SECONDS = 60.0
# API servers learn of a changed CA bundle by a watch; this is a slow one.
LAG_SECONDS = 1.0
BODY = json.dumps(review(POD)).encode()


class ApiServer:
    """Calls the webhook as an API server does, over new connections, trusting the CA bundle of LAG_SECONDS ago."""

    def __init__(self, injector: Injector, cluster: FakeCluster) -> None:
        self.failures: list[str] = []
        self.seconds: list[float] = []
        self.certificates: list[bytes] = []  # those presented, in the order of their first appearance
        self._injector = injector
        self._cluster = cluster
        self._bundles = [(time.monotonic() - LAG_SECONDS, cluster.ca_bundle)]
        self._due: queue.Queue[float | None] = queue.Queue()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(WORKERS)]
        self._threads.append(threading.Thread(target=self._schedule))
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(DEADLINE_SECONDS)

    def until(self, what: str, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert time.monotonic() < until, f"not in {DEADLINE_SECONDS} s: {what}; {self.failures[:3]}"
            time.sleep(0.02)

    def p(self, percent: float) -> float:
        """In milliseconds."""
        ordered = sorted(self.seconds)
        return 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]

    def _schedule(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            self._learn()
            self._due.put(due)
            due += 1 / RATE
            time.sleep(max(0.0, due - time.monotonic()))
        for _ in range(WORKERS):
            self._due.put(None)

    def _learn(self) -> None:
        current = self._cluster.ca_bundle
        if current != self._bundles[-1][1]:
            self._bundles.append((time.monotonic(), current))

    def _trusted(self) -> bytes:
        then = time.monotonic() - LAG_SECONDS
        return next(bundle for at, bundle in reversed(self._bundles) if at <= then)

    def _work(self) -> None:
        while (due := self._due.get()) is not None:
            try:
                self._admit()
            except (OSError, ValueError, KeyError, AssertionError) as error:
                self.failures.append(f"{type(error).__name__}: {error}")
            else:
                self.seconds.append(time.monotonic() - due)

    def _admit(self) -> None:
        connection = connect(self._injector.port, self._trusted())
        try:
            connection.request("POST", "/mutate?timeout=5s", BODY, {"Content-Type": "application/json"})
            assert isinstance(connection.sock, ssl.SSLSocket)
            shown = connection.sock.getpeercert(binary_form=True)
            assert shown is not None
            if shown not in self.certificates:
                self.certificates.append(shown)
            answer: Any = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        assert patch_of(answer["response"])


def test_certificates_change_under_load_and_no_admission_fails(
    cluster: FakeCluster, capsys: pytest.CaptureFixture[str]
):
    with Injector(cluster.kubeconfig, 0, "--refresh-seconds=1") as injector:
        injector.wait_for("ready: listening")
        api = ApiServer(injector, cluster)
        try:
            api.until("the first second", lambda: len(api.seconds) > RATE)
            _renewed_by_another_replica(cluster)
            api.until("the renewed certificate", lambda: len(api.certificates) == 2)
            cluster.secrets.clear()  # somebody deletes it: a new CA, while API servers still trust the former alone
            api.until("the certificate of a new CA", lambda: len(api.certificates) == 3)
            before = len(api.seconds)
            api.until("one more second", lambda: len(api.seconds) > before + RATE)
        finally:
            api.stop()
    with capsys.disabled():
        count = len(api.seconds)
        print(
            f"\n{count} admissions at {RATE}/s over new connections: p50 {api.p(50):.1f} ms, p99 {api.p(99):.1f} ms"
        )
    assert api.failures == []
    assert certs.from_data(cluster.secrets[SECRET]["data"]).ca_certificates.count(b"BEGIN CERTIFICATE") == 2


def _renewed_by_another_replica(cluster: FakeCluster) -> None:
    secret = json.loads(json.dumps(cluster.secrets[SECRET]))
    names = ["evenstream-injector.evenstream-system.svc"]
    bundle = certs.issue(names, datetime.datetime.now(datetime.UTC), certs.from_data(secret["data"]))
    secret["data"] = certs.to_data(bundle)
    secret["metadata"]["resourceVersion"] = "999"
    cluster.secrets[SECRET] = secret
