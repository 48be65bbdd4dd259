"""Ports inside pods, through the API server's port-forward: no other way leads to a loopback.

The sidecar answers /status on the loopback only, so this needs the right to create pods/portforward.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Self

from contract import names
from injector.cli.cluster import ApiError, Cluster, namespaced, reason

# From the websocket's opening to the last byte of an answer. The kubelet dials in milliseconds.
ANSWER_SECONDS: Final = 10.0
# A status of 1,000 endpoints is 700 kB.
MAX_STATUS_BYTES: Final = 64 * 1024 * 1024


_QUIET: Final = "Kubernetes port forward proxy"


def _quiet(before: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The library's thread raises when a side closes while it writes. We see that as the end of our socket; a
    traceback on the terminal helps nobody."""

    def hook(arguments: Any) -> None:
        if arguments.thread is None or not arguments.thread.name.startswith(_QUIET):
            before(arguments)

    hook.quiet = True  # type: ignore[attr-defined]
    return hook


def forward(cluster: Cluster, namespace: str, pod: str, port: int) -> Any:
    """A socket to `port` on the pod's loopback. Raises ApiError."""
    from kubernetes.client import ApiException
    from kubernetes.stream.ws_client import portforward_call

    if not getattr(threading.excepthook, "quiet", False):
        threading.excepthook = _quiet(threading.excepthook)
    url = f"{cluster.host}{namespaced('pods', namespace, pod)}/portforward?ports={port}"
    try:
        forwarded = portforward_call(
            cluster.configuration, "GET", url, headers=cluster.headers(), query_params=[("ports", str(port))]
        )
    except ApiException as error:
        raise _refused(error, namespace, pod) from None
    return forwarded.socket(port)


def _refused(error: Any, namespace: str, pod: str) -> ApiError:
    """websocket's error, which the library has put into one text, is taken out of it again."""
    cause = error.__context__
    status = int(getattr(cause, "status_code", 0) or 0)
    text = reason(cause) if cause is not None else str(error.reason)
    with suppress(ValueError, TypeError, KeyError):
        text = json.loads(getattr(cause, "resp_body", b"") or b"")["message"]
    if status == 403:
        text += "; this needs the right to create pods/portforward"
    return ApiError(f"no port-forward to pod {namespace}/{pod}: {text}", status)


class _Forwarded(http.client.HTTPConnection):
    """HTTP/1.1 over a socket that is there already."""

    def __init__(self, sock: Any) -> None:
        super().__init__("127.0.0.1", names.ADMIN_PORT, timeout=ANSWER_SECONDS)
        sock.settimeout(ANSWER_SECONDS)
        self.sock = sock

    def connect(self) -> None:
        raise ConnectionError("closed by the other side")


class AdminPort:
    """The sidecar's admin port in one pod, kept open between questions."""

    def __init__(self, cluster: Cluster, namespace: str, pod: str) -> None:
        self._where = (cluster, namespace, pod)
        self._connection: _Forwarded | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def status(self) -> dict[str, Any]:
        """What /status tells. Raises ApiError. A connection that has gone meanwhile is made once more."""
        kept = self._connection is not None
        try:
            return self._ask("/status")
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if not kept:
                raise self._no_answer(error) from None
        try:
            return self._ask("/status")
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._no_answer(error) from None

    def _ask(self, path: str) -> dict[str, Any]:
        if self._connection is None:
            self._connection = _Forwarded(forward(*self._where, names.ADMIN_PORT))
        # An IP address as Host: the admin port answers no names, against DNS rebinding.
        self._connection.request("GET", path, headers={"Host": f"127.0.0.1:{names.ADMIN_PORT}"})
        answer = self._connection.getresponse()
        body = answer.read(MAX_STATUS_BYTES)
        if answer.status != 200:
            text = body[:200].decode(errors="replace").strip()
            raise http.client.HTTPException(f"{path} answers {answer.status}: {text}")
        try:
            found: dict[str, Any] = json.loads(body)
        except ValueError:
            raise http.client.HTTPException(f"{path} is not JSON") from None
        return found

    def _no_answer(self, error: Exception) -> ApiError:
        _, namespace, pod = self._where
        text = str(error) or type(error).__name__
        return ApiError(f"the sidecar of pod {namespace}/{pod} does not answer: {text}")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def peer_certificate(sock: Any, authority: str, name: str) -> bytes:
    """The certificate (DER) that a TLS server behind `sock` shows for `name`, verified against the PEM
    `authority`. Raises ssl.SSLError, or OSError if the handshake does not end in time."""
    context = ssl.create_default_context(cadata=authority)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    sock.settimeout(ANSWER_SECONDS)
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            sock.sendall(outgoing.read())
            data = sock.recv(65536)
            if not data:
                raise ConnectionError("closed during the handshake") from None
            incoming.write(data)
        else:
            break
    sock.sendall(outgoing.read())
    with suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
    sock.close()
    return tls.getpeercert(binary_form=True) or b""
