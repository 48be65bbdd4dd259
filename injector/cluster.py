"""The calls to the Kubernetes API that the injector makes itself: read and write its Secret, put the CA into
its MutatingWebhookConfiguration, and ask for the server's version.

Over aiohttp, which kopf brings, rather than the `kubernetes` client: that costs 40 MB for four calls.
"""

from __future__ import annotations

import base64
import dataclasses
import logging
import os
import re
import ssl
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
import kopf

from injector import certs

# The API server answers these in milliseconds; a webhook that starts without it must not hang either.
TIMEOUT: Final = aiohttp.ClientTimeout(total=10)
# An error's body is for one log line.
MAX_ERROR_TEXT: Final = 300

_log = logging.getLogger(__name__)


class ApiError(Exception):
    """The API server refused a call; the text says which call, the status and its message."""


class Place(NamedTuple):
    """The names of the objects the injector keeps."""

    namespace: str
    secret: str
    webhook_configuration: str
    webhooks: Sequence[str]  # the names of the entries within it


def login(settings: kopf.OperatorSettings) -> kopf.ConnectionInfo:
    """The pod's own service account, else the kubeconfig of whoever runs this by hand. Read anew on each
    call, as the kubelet replaces the token. Raises kopf.LoginError if there is neither."""
    found = kopf.login_with_service_account(settings=settings)
    if found is None:
        return kopf.login_with_kubeconfig(settings=settings) or _no_login()
    # The address that the kubelet gives, as client-go uses it: needs no cluster DNS.
    host, port = (
        os.environ.get("KUBERNETES_SERVICE_HOST", ""),
        os.environ.get("KUBERNETES_SERVICE_PORT", "443"),
    )
    if host:
        url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        return dataclasses.replace(found, server=url)
    return found


def _no_login() -> kopf.ConnectionInfo:
    raise kopf.LoginError("neither a service account's token nor a kubeconfig was found")


class Cluster:
    """The API calls. Implements `certs.SecretApi`."""

    def __init__(self, settings: kopf.OperatorSettings, place: Place) -> None:
        self._settings = settings
        self._place = place

    async def read(self) -> Mapping[str, Any] | None:
        status, found = await self._call("GET", self._secrets(self._place.secret))
        return None if status == 404 else found

    async def create(self, data: Mapping[str, str]) -> None:
        await self._write("POST", self._secrets(""), self._secret(data))

    async def replace(self, data: Mapping[str, str], resource_version: str) -> None:
        await self._write("PUT", self._secrets(self._place.secret), self._secret(data, resource_version))

    async def trust(self, ca_certificates: bytes) -> None:
        """Put these into our webhooks' clientConfig. A patch that changes nothing writes nothing, so this is
        called again and again, and heals a configuration that was applied anew without them."""
        client = {"caBundle": base64.b64encode(ca_certificates).decode()}
        body = {"webhooks": [{"name": name, "clientConfig": client} for name in self._place.webhooks]}
        path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/"
        path += self._place.webhook_configuration
        # Merges the list by name; a JSON merge patch would replace it.
        status, _ = await self._call("PATCH", path, body, "application/strategic-merge-patch+json")
        if status == 404:
            raise ApiError(f"MutatingWebhookConfiguration {self._place.webhook_configuration} does not exist")

    async def version(self) -> tuple[int, int]:
        """The API server's (major, minor). Every account may ask. Raises ApiError, also for no version."""
        _, found = await self._call("GET", "/version")
        # Minor is "34", or "34+" where a provider built it.
        parts = [re.match(r"[0-9]{1,4}", str((found or {}).get(key, ""))) for key in ("major", "minor")]
        if None in parts:
            raise ApiError(f"GET /version: no major and minor in {str(found)[:MAX_ERROR_TEXT]}")
        major, minor = (int(part[0]) for part in parts if part is not None)
        return major, minor

    def _secrets(self, name: str) -> str:
        return f"/api/v1/namespaces/{self._place.namespace}/secrets/{name}".rstrip("/")

    def _secret(self, data: Mapping[str, str], resource_version: str = "") -> Mapping[str, Any]:
        metadata: dict[str, Any] = {
            "name": self._place.secret,
            "namespace": self._place.namespace,
            "labels": {"app.kubernetes.io/part-of": "evenstream"},
        }
        if resource_version:
            metadata["resourceVersion"] = resource_version
        return {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata, "data": data}

    async def _write(self, method: str, path: str, body: Mapping[str, Any]) -> None:
        status, _ = await self._call(method, path, body)
        # 404 on replace: deleted since it was read.
        if status in (404, 409):
            raise certs.ConflictError(f"{method} {path}: changed by somebody else")

    async def _call(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json"
    ) -> tuple[int, Any]:
        """(status, JSON). 404 and 409 are answers; ApiError for any other refusal and for no answer."""
        try:
            connection = login(self._settings)
            headers = {**connection.as_http_headers(), "Content-Type": content_type}
            async with (
                aiohttp.ClientSession(timeout=TIMEOUT) as session,
                session.request(
                    method,
                    connection.server.rstrip("/") + path,
                    json=body,
                    headers=headers,
                    ssl=_client_context(connection),
                ) as response,
            ):
                if response.status in (404, 409):
                    return response.status, None
                if response.status >= 400:
                    text = (await response.text())[:MAX_ERROR_TEXT]
                    raise ApiError(f"{method} {path}: {response.status} {_message(text)}")
                return response.status, await response.json()
        except (aiohttp.ClientError, TimeoutError, OSError, kopf.LoginError) as error:
            raise ApiError(f"{method} {path}: {type(error).__name__} {error}".rstrip()) from error


def _message(text: str) -> str:
    return " ".join(text.split())


def _client_context(connection: kopf.ConnectionInfo) -> ssl.SSLContext:
    """TLS as the login says: the cluster's CA, and a client certificate where the kubeconfig has one."""
    authority = connection.ca_data
    pem = base64.b64decode(authority).decode() if authority else None
    context = ssl.create_default_context(cafile=_path(connection.ca_path), cadata=pem)
    if connection.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if connection.certificate_path and connection.private_key_path:
        context.load_cert_chain(_path(connection.certificate_path) or "", _path(connection.private_key_path))
    elif connection.certificate_data and connection.private_key_data:
        load_pair(
            context,
            base64.b64decode(connection.certificate_data),
            base64.b64decode(connection.private_key_data),
        )
    return context


def _path(path: str | bytes | os.PathLike[str] | os.PathLike[bytes] | None) -> str | None:
    return os.fsdecode(path) if path else None


def load_pair(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """load_cert_chain takes files only. The key goes into memory that no other process sees and that has no
    name (memfd); where the kernel has no such thing, into a private directory for a moment."""
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("evenstream", os.MFD_CLOEXEC), "wb") as memory:
            memory.write(key + certificate)
            memory.flush()
            context.load_cert_chain(f"/proc/self/fd/{memory.fileno()}")
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pair.pem"
        path.write_bytes(key + certificate)
        context.load_cert_chain(path)
