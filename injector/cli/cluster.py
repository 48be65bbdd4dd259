"""The Kubernetes API as plain dicts: kubeconfig, login and TLS are the kubernetes library's, the calls ours.

Its generated classes would turn the pods that injector.admission reads as dicts into objects and back, and
drop fields that are newer than they are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode

import urllib3
import yaml

from contract import names
from injector.cli import codes

CONNECT_SECONDS: Final = 5.0
# A busy API server answers a list of thousands of pods within this.
READ_SECONDS: Final = 30.0
# Objects a page: kubectl's own chunk size.
PAGE: Final = 500
# What a completing shell waits for.
COMPLETION_SECONDS: Final = 2.0
# kubectl sends this too, and an API server's audit log shows it.
USER_AGENT: Final = "evenstream"

Json = dict[str, Any]


class ApiError(codes.CliError):
    """The API server refused or did not answer. `status` 0: no answer."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text, codes.CLUSTER)
        self.status = status


class Created(NamedTuple):
    """`warnings`: what `kubectl` would print as Warning."""

    object: Json
    warnings: tuple[str, ...]


class Cluster:
    """One cluster, as one user. Calls may come from several threads."""

    def __init__(self, configuration: Any, namespace: str, timeout: float = READ_SECONDS) -> None:
        """`configuration`: a kubernetes.client.Configuration. `namespace`: where none is named."""
        from kubernetes.client.rest import RESTClientObject

        self.configuration: Final = configuration
        self.namespace: Final = namespace
        self.host: Final[str] = configuration.host.rstrip("/")
        self._pool = RESTClientObject(configuration).pool_manager
        self._timeout = urllib3.Timeout(connect=min(CONNECT_SECONDS, timeout), read=timeout)

    def get(self, path: str, **query: Any) -> Json:
        """Raises ApiError."""
        found: Json = json.loads(self._call("GET", path, query).data)
        return found

    def find(self, path: str, **query: Any) -> Json | None:
        """None if there is no such thing. Raises ApiError."""
        try:
            return self.get(path, **query)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def list(self, path: str, **query: Any) -> Iterator[Json]:
        """Each object, page by page. Raises ApiError."""
        following = ""
        while True:
            more = {"continue": following} if following else {}
            page = self.get(path, limit=PAGE, **query, **more)
            yield from page.get("items") or ()
            following = (page.get("metadata") or {}).get("continue") or ""
            if not following:
                return

    def create(self, path: str, body: Mapping[str, Any], **query: Any) -> Created:
        """Raises ApiError."""
        answer = self._call("POST", path, query, body)
        warnings = [_unquoted(text) for text in answer.headers.getlist("Warning")]
        return Created(json.loads(answer.data), tuple(warnings))

    def headers(self) -> dict[str, str]:
        """What logs us in, read anew as tokens are renewed."""
        found = {"User-Agent": USER_AGENT}
        for setting in self.configuration.auth_settings().values():
            if setting["in"] == "header" and setting["value"]:
                found[setting["key"].lower()] = setting["value"]
        return found

    def _call(self, method: str, path: str, query: Mapping[str, Any], body: Any = None) -> Any:
        url = self.host + path + ("?" + urlencode(query) if query else "")
        headers = {**self.headers(), "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        data = json.dumps(body) if body is not None else None
        try:
            answer = self._pool.request(
                method, url, body=data, headers=headers, timeout=self._timeout, retries=False
            )
        except urllib3.exceptions.HTTPError as error:
            raise ApiError(f"{self.host} does not answer: {reason(error)}") from None
        if answer.status >= 400:
            raise ApiError(f"{method} {path}: {_message(answer)}", answer.status)
        return answer


def reason(error: BaseException) -> str:
    """One line from urllib3's and websocket's nested errors."""
    inner: BaseException | None = error
    while inner is not None and inner.__cause__ is not None:
        inner = inner.__cause__
    text = str(inner)
    return text.split(": ", 1)[-1] if "object at 0x" in text else text or type(error).__name__


def _message(answer: Any) -> str:
    try:
        return f"{answer.status} {json.loads(answer.data)['message']}"
    except (ValueError, KeyError, TypeError):
        return f"{answer.status} {answer.reason}"


def _unquoted(header: str) -> str:
    """RFC 7234's `299 - "text"`."""
    return header.split('"', 1)[-1].rstrip('"').replace('\\"', '"')


def open_cluster(context: str = "", kubeconfig: str = "", timeout: float = READ_SECONDS) -> Cluster:
    """As kubectl would choose it: kubeconfig, else the service account of the pod we are in.

    Raises ApiError, in one line, if there is neither or the context does not exist.
    """
    # Here, not above: half a second that `evenstream diff` does not need.
    from kubernetes import client, config

    configuration = client.Configuration()
    # Several are one, as kubectl merges them.
    path = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
    try:
        if context or kubeconfig or _any_exists(path):
            chosen = {"config_file": path, "context": context or None}
            config.load_kube_config(**chosen, client_configuration=configuration)
            namespace = _namespace_of(context, path)
        else:
            config.load_incluster_config(client_configuration=configuration)
            namespace = _own_namespace()
    except (config.ConfigException, yaml.YAMLError, OSError, ValueError, KeyError, TypeError) as error:
        text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ApiError(
            f"no cluster to ask: {text}; set KUBECONFIG, or give --kubeconfig and --context"
        ) from None
    return Cluster(configuration, namespace, timeout)


def _any_exists(paths: str) -> bool:
    return any(Path(path).expanduser().exists() for path in paths.split(os.pathsep) if path)


def _namespace_of(context: str, path: str) -> str:
    from kubernetes import config

    contexts, active = config.list_kube_config_contexts(path)
    chosen = next((one for one in contexts if one["name"] == context), active)
    return str((chosen.get("context") or {}).get("namespace") or "default")


def _own_namespace() -> str:
    try:
        return Path(names.SERVICE_ACCOUNT_DIR, "namespace").read_text().strip() or "default"
    except OSError:
        return "default"


def namespaced(kind: str, namespace: str, name: str = "", group: str = "") -> str:
    """The path of `pods`, `services`, ... of the core group, or of `group` ("apps/v1"). Empty namespace: all."""
    root = f"/apis/{group}" if group else "/api/v1"
    inside = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
    return f"{root}{inside}/{kind}" + (f"/{quote(name, safe='')}" if name else "")
