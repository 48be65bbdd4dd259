"""An API server in memory with pods that have ports: objects by path, reviews, dry runs through the real admission
code, and port-forward by websocket to real sockets. What a real one does alone is in test_cli_apiserver.py."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import aiohttp.web

from injector.admission.decision import Options, decide, inject

Json = dict[str, Any]
STARTED = "2026-11-24T06:00:00Z"


class FakeCluster:
    """`put` objects, `listen` for what stands behind a pod's port, then use `kubeconfig`."""

    def __init__(self, folder: Path) -> None:
        self.objects: dict[str, Json] = {}  # by path
        self.ports: dict[tuple[str, str, int], tuple[str, int]] = {}  # (namespace, pod, port): address
        self.forbidden: set[str] = set()  # paths, or their last part
        self.denied: set[str] = set()  # resources that access reviews say no to
        self.injects = True  # the webhook is called, and answers
        self.version = {"major": "1", "minor": "34", "gitVersion": "v1.34.4"}
        self.calls: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()
        self.kubeconfig = folder / "kubeconfig"

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(20)
        server = {"name": "fake", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}
        context = {"cluster": "fake", "user": "fake", "namespace": "shop"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "contexts": [{"name": "fake", "context": context}],
            "clusters": [server],
            "users": [{"name": "fake", "user": {"token": "secret"}}],
        }
        self.kubeconfig.write_text(json.dumps(config))
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)

    def put(self, path: str, thing: Json) -> Json:
        """`path` as /api/v1/namespaces/shop/pods/p; name and namespace are taken from it."""
        parts = path.split("/")
        metadata = thing.setdefault("metadata", {})
        metadata["name"] = parts[-1]
        metadata.setdefault("creationTimestamp", STARTED)
        if "namespaces" in parts[:-2]:
            metadata["namespace"] = parts[parts.index("namespaces") + 1]
        self.objects[path] = thing
        return thing

    def pod(self, name: str, namespace: str = "shop", **annotations: str) -> Json:
        """Running; annotations with _ for -, and injected if they say so."""
        given = {f"evenstream.dev/{key.replace('_', '-')}": text for key, text in annotations.items()}
        made: Json = {
            "metadata": {"annotations": given},
            "spec": {"containers": [{"name": "web", "image": "web:1"}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        }
        if self.injects:
            made = inject(made, decide(made, Options("evenstream-sidecar:dev", "0.1.0")))
        if "initContainers" in made["spec"]:
            running = {"name": "evenstream", "ready": True, "restartCount": 0, "state": {"running": {}}}
            ended = {
                "name": "evenstream-init",
                "state": {"terminated": {"exitCode": 0, "reason": "Completed"}},
            }
            made["status"]["initContainerStatuses"] = [running, ended]
        return self.put(f"/api/v1/namespaces/{namespace}/pods/{name}", made)

    def serve(self, namespace: str, pod: str, port: int, address: tuple[str, int]) -> None:
        self.ports[namespace, pod, port] = address

    # The server

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._runner.cleanup())
        self._loop.close()

    async def _start(self) -> None:
        app = aiohttp.web.Application(middlewares=[self._watched])
        app.router.add_get("/version", self._version)
        app.router.add_get("/api/v1/namespaces/{namespace}/pods/{pod}/portforward", self._forward)
        app.router.add_post("/apis/authorization.k8s.io/v1/{kind}", self._review)
        app.router.add_post("/api/v1/namespaces/{namespace}/pods", self._create_pod)
        app.router.add_get("/{path:.*}", self._get)
        self._runner = aiohttp.web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await aiohttp.web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]

    @aiohttp.web.middleware
    async def _watched(self, request: aiohttp.web.Request, handler: Any) -> aiohttp.web.StreamResponse:
        self.calls.append(f"{request.method} {request.path_qs}")
        if request.headers.get("Authorization") != "Bearer secret":
            return _status(401, "Unauthorized")
        last = request.path.rsplit("/", 1)[-1]
        if request.path in self.forbidden or last in self.forbidden:
            return _status(403, f'{last} is forbidden: User "fake" cannot do that')
        answer: aiohttp.web.StreamResponse = await handler(request)
        return answer

    async def _version(self, _: aiohttp.web.Request) -> aiohttp.web.Response:
        return aiohttp.web.json_response(self.version)

    async def _get(self, request: aiohttp.web.Request) -> aiohttp.web.Response:
        path = request.path
        if path in self.objects:
            return aiohttp.web.json_response(self.objects[path])
        found = [thing for at, thing in self.objects.items() if _listed(at, path)]
        found = [thing for thing in found if _selected(thing, request.query.get("labelSelector", ""))]
        if not found and not _is_list(path):
            return _status(404, f"{path} not found")
        start, limit = int(request.query.get("continue", "0")), int(request.query.get("limit", "500"))
        page = found[start : start + limit]
        more = str(start + limit) if start + limit < len(found) else ""
        return aiohttp.web.json_response({"items": page, "metadata": {"continue": more}})

    async def _review(self, request: aiohttp.web.Request) -> aiohttp.web.Response:
        asked = (await request.json())["spec"]["resourceAttributes"]["resource"]
        return aiohttp.web.json_response({"status": {"allowed": asked not in self.denied}})

    async def _create_pod(self, request: aiohttp.web.Request) -> aiohttp.web.Response:
        assert request.query["dryRun"] == "All", "nothing is ever made"
        pod = await request.json()
        if not self.injects:
            return aiohttp.web.json_response(pod, status=201)
        decision = decide(pod, Options("evenstream-sidecar:dev", "0.1.0"))
        headers = [("Warning", f'299 - "{text}"') for text in decision.warnings]
        return aiohttp.web.json_response(inject(pod, decision), status=201, headers=dict(headers))

    async def _forward(self, request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        """v4.channel.k8s.io as the kubelet speaks it: channel 0 data, channel 1 errors, each opened by a frame that
        names the port."""
        port = int(request.query["ports"])
        target = self.ports.get((request.match_info["namespace"], request.match_info["pod"], port))
        web = aiohttp.web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
        await web.prepare(request)
        for channel in (0, 1):
            await web.send_bytes(bytes([channel]) + port.to_bytes(2, "little"))
        try:
            assert target is not None
            reader, writer = await asyncio.open_connection(*target)
        except (OSError, AssertionError):
            await web.send_bytes(b"\x01connection refused")
            await web.close()
            return web

        async def back() -> None:
            while data := await reader.read(65536):
                await web.send_bytes(b"\x00" + data)
            await web.close()

        task = asyncio.create_task(back())
        try:
            async for message in web:
                if message.type == aiohttp.WSMsgType.BINARY and message.data[:1] == b"\x00":
                    writer.write(message.data[1:])
        finally:
            task.cancel()
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()
        return web


def _is_list(path: str) -> bool:
    """Whether a path ends with a kind: /api/v1/pods, .../namespaces/shop/pods, /apis/apps/v1/deployments."""
    parts = path.strip("/").split("/")
    rest = parts[2:] if parts[0] == "api" else parts[3:]
    if len(rest) >= 2 and rest[0] == "namespaces":
        rest = rest[2:] or ["namespace"]
        return len(rest) == 1 and rest != ["namespace"]
    return len(rest) == 1


def _listed(at: str, path: str) -> bool:
    """Whether the object at `at` belongs to the list at `path`; a list without a namespace has those of all."""
    if not _is_list(path):
        return False
    root, _, kind = path.rpartition("/")
    if at.rpartition("/")[0] == path:
        return True
    return at.startswith(root + "/namespaces/") and at.split("/")[-2] == kind and "/namespaces/" not in root


def _selected(thing: Json, selector: str) -> bool:
    labels = thing["metadata"].get("labels") or {}
    wanted = dict(part.split("=", 1) for part in selector.split(",") if part)
    return all(labels.get(key) == text for key, text in wanted.items())


def _status(code: int, message: str) -> aiohttp.web.Response:
    return aiohttp.web.json_response({"kind": "Status", "code": code, "message": message}, status=code)


class Listener:
    """A loopback socket whose connections `serve` gets, each in a thread."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        self._sock = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._sock.getsockname()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._sock.accept()
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def close(self) -> None:
        self._sock.close()
