"""A Kubernetes API server with the behaviour the injector relies on: resource versions and their conflicts,
409 and 404, the strategic merge of a list by name, discovery. In a thread of its own, on loopback."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from pathlib import Path
from typing import Any, Self

import aiohttp.web

WEBHOOK_PATH = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/evenstream-injector"
SECRETS_PATH = "/api/v1/namespaces/evenstream-system/secrets"


class FakeCluster:
    def __init__(self) -> None:
        self.secrets: dict[str, dict[str, Any]] = {}
        self.webhooks: list[dict[str, Any]] | None = [
            {"name": f"{name}.evenstream.dev", "failurePolicy": "Ignore", "clientConfig": {"service": {}}}
            for name in ("inject", "inject-restricted")
        ]
        self.calls: list[str] = []
        self.fail_next = 0  # this many calls are answered 500
        self.minor = "34"  # of its version; "" for an answer without one
        self.port = 0
        self._version = 0
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    @property
    def ca_bundle(self) -> bytes:
        assert self.webhooks is not None
        (bundle,) = {webhook["clientConfig"].get("caBundle", "") for webhook in self.webhooks}
        return base64.b64decode(bundle)

    def write_kubeconfig(self, path: Path) -> None:
        self.kubeconfig = path
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "fake",
                    "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
                    "clusters": [{"name": "fake", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
                    "users": [{"name": "fake", "user": {"token": "secret"}}],
                }
            )
        )

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._runner.cleanup())
        self._loop.close()

    async def _start(self) -> None:
        app = aiohttp.web.Application(middlewares=[self._watched])
        app.router.add_get(SECRETS_PATH + "/{name}", self._read)
        app.router.add_post(SECRETS_PATH, self._create)
        app.router.add_put(SECRETS_PATH + "/{name}", self._replace)
        app.router.add_patch(WEBHOOK_PATH, self._patch)
        app.router.add_get("/version", self._version_of)
        app.router.add_get("/api", self._api)
        app.router.add_get("/api/v1", self._v1)
        app.router.add_get("/apis", self._apis)
        app.router.add_get("/apis/{group}/{version}", self._nothing)
        self._runner = aiohttp.web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = aiohttp.web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    @aiohttp.web.middleware
    async def _watched(self, request: aiohttp.web.Request, handler: Any) -> aiohttp.web.StreamResponse:
        self.calls.append(f"{request.method} {request.path}")
        if request.headers.get("Authorization") != "Bearer secret":
            return _status(401)
        if self.fail_next:
            self.fail_next -= 1
            return _status(500)
        return await handler(request)

    async def _read(self, request: aiohttp.web.Request) -> aiohttp.web.Response:
        found = self.secrets.get(request.match_info["name"])
        return aiohttp.web.json_response(found) if found else _status(404)

    async def _create(self, request: aiohttp.web.Request) -> aiohttp.web.Response:
        secret = await request.json()
        if secret["metadata"]["name"] in self.secrets:
            return _status(409)
        return self._store(secret)

    async def _replace(self, request: aiohttp.web.Request) -> aiohttp.web.Response:
        secret = await request.json()
        found = self.secrets.get(request.match_info["name"])
        if found is None:
            return _status(404)
        if found["metadata"]["resourceVersion"] != secret["metadata"]["resourceVersion"]:
            return _status(409)
        return self._store(secret)

    def _store(self, secret: dict[str, Any]) -> aiohttp.web.Response:
        self._version += 1
        secret["metadata"]["resourceVersion"] = str(self._version)
        self.secrets[secret["metadata"]["name"]] = secret
        return aiohttp.web.json_response(secret)

    async def _patch(self, request: aiohttp.web.Request) -> aiohttp.web.Response:
        if self.webhooks is None:
            return _status(404)
        if request.content_type != "application/strategic-merge-patch+json":
            return _status(415)
        for change in (await request.json())["webhooks"]:
            webhook = next((one for one in self.webhooks if one["name"] == change["name"]), None)
            if webhook is None:
                return _status(422)
            webhook["clientConfig"].update(change["clientConfig"])
        return aiohttp.web.json_response({"webhooks": self.webhooks})

    async def _version_of(self, _: aiohttp.web.Request) -> aiohttp.web.Response:
        return aiohttp.web.json_response({"major": "1", "minor": self.minor} if self.minor else {})

    async def _api(self, _: aiohttp.web.Request) -> aiohttp.web.Response:
        return aiohttp.web.json_response({"kind": "APIVersions", "versions": ["v1"]})

    async def _v1(self, _: aiohttp.web.Request) -> aiohttp.web.Response:
        kinds = (("pods", "Pod", True), ("namespaces", "Namespace", False), ("events", "Event", True))
        resources = [
            {"name": name, "singularName": "", "kind": kind, "namespaced": namespaced, "verbs": ["get"]}
            for name, kind, namespaced in kinds
        ]
        return aiohttp.web.json_response({"kind": "APIResourceList", "resources": resources})

    async def _apis(self, _: aiohttp.web.Request) -> aiohttp.web.Response:
        return aiohttp.web.json_response({"kind": "APIGroupList", "groups": []})

    async def _nothing(self, _: aiohttp.web.Request) -> aiohttp.web.Response:
        return aiohttp.web.json_response({"kind": "APIResourceList", "resources": []})


def _status(code: int) -> aiohttp.web.Response:
    return aiohttp.web.json_response({"kind": "Status", "code": code}, status=code)
