"""The TLS server that the API server calls: admission requests, and health for the kubelet's probes.

It takes the place of kopf.WebhookServer (whose shape it has: called with the function that answers a
review, it yields client configurations) for what that one cannot do: TLS 1.3 only, a certificate renewed
without a restart, bodies over 1 MiB, `request.namespace` for the handler, and an answer in the protocol's
own shape whatever is sent.
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import json
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final, Protocol

import aiohttp.web
from aiohttp.typedefs import Handler

from injector import certs, reviews
from injector.cluster import ApiError, load_pair
from injector.metrics import Metrics, Outcome

MUTATE_PATH: Final = "/mutate"
# Where the webhook configuration sends the pods of namespaces that enforce Pod Security baseline or restricted.
# Namespaces' labels choose the path, so that nobody has to read namespaces.
RESTRICTED_PATH: Final = "/mutate/restricted"
# etcd takes objects up to 1.5 MiB and the API server requests up to 3 MiB; a review holds the object once
# or twice as JSON.
MAX_BODY_BYTES: Final = 10 * 1024 * 1024
# Of all reviews that are being read or wait for their turn: two of the largest.
MAX_HELD_BYTES: Final = 20 * 1024 * 1024
# API servers follow changes of a webhook configuration by watching it: within milliseconds, seconds under load.
# A certificate of a new CA is not shown before they have had time to learn to trust it.
CA_SETTLE_SECONDS: Final = 5.0
# The API server sends a review in one go and waits timeoutSeconds (5) for the answer.
READ_TIMEOUT_SECONDS: Final = 5
# Requests under way when the program is told to stop; the API server has given up after its own timeout.
SHUTDOWN_SECONDS: Final = 5
# Waiting for an API server that is not there yet, at start.
RETRY_SECONDS: Final = (0.5, 1.0, 2.0, 5.0)

# A look at the certificates that failed, and is tried again.
NOT_NOW: Final = (ApiError, certs.ConflictError, certs.FilesError)

_log = logging.getLogger(__name__)

Json = dict[str, Any]
ReviewFn = Callable[..., Awaitable[Any]]


class Exchange:
    """One review on its way: what kopf does not hand to a handler, and the handler's patch on the way back.

    The patch goes back here, not through kopf's `patch`: kopf compares the pod before and after, and by
    position, so that a container put in front of another is written as changes to all fields of the other.
    """

    __slots__ = ("namespace", "outcome", "patch", "restricted")

    def __init__(self, namespace: str, restricted: bool) -> None:
        self.namespace = namespace
        self.restricted = restricted  # the namespace enforces Pod Security baseline or restricted
        self.patch: list[Json] = []
        self.outcome: Outcome = "unchanged"


exchange: Final[ContextVar[Exchange]] = ContextVar("exchange")


class Certificates(Protocol):
    async def current(self, now: datetime.datetime) -> certs.Bundle: ...


class Trust(Protocol):
    async def trust(self, ca_certificates: bytes) -> None: ...


class Server:
    """Answers on `host`:`port`. Empty host: every address; API server and kubelet come to the pod's."""

    def __init__(
        self,
        host: str,
        port: int,
        certificates: Certificates,
        trust: Trust,
        *,
        refresh_seconds: float,
        also: Callable[[], Awaitable[None]] | None = None,
        settle_seconds: float = CA_SETTLE_SECONDS,
    ) -> None:
        """`refresh_seconds`: how often the Secret is looked at (another replica may have renewed it) and the
        webhook's CA put in place again. `also`: called with each look; it must not raise."""
        self._also = also
        self._refresh_seconds = refresh_seconds
        self._settle_seconds = settle_seconds
        self._held = 0
        self._turn = asyncio.Lock()  # one review is in memory as values at a time
        self._host = host
        self._port = port
        self._certificates = certificates
        self._trust = trust
        self._bundle: certs.Bundle | None = None
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._metrics = Metrics()
        self._ready = False
        self.listening: tuple[str, int] | None = None

    def try_port(self) -> None:
        """Raises OSError if its port is not to be had now."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        socket.create_server((self._host, self._port), family=family).close()

    async def __call__(self, answer: ReviewFn) -> AsyncIterator[Any]:
        await self._until_refreshed()
        app = aiohttp.web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._counted])
        app.router.add_get("/metrics", self._shown)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)

        async def mutate(request: aiohttp.web.Request) -> aiohttp.web.Response:
            return await self._mutate(request, answer)

        for path in (MUTATE_PATH, RESTRICTED_PATH):
            app.router.add_post(path, mutate)
        runner = aiohttp.web.AppRunner(
            app, handle_signals=False, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS
        )
        await runner.setup()
        try:
            site = aiohttp.web.TCPSite(runner, self._host or None, self._port, ssl_context=self._context)
            await site.start()
            self.listening = runner.addresses[0][:2]
            self._ready = True
            _log.info("ready: listening on %s port %s", self._host or "all addresses", self.listening[1])
            # kopf wants a client configuration to put into an object it manages; here it manages none.
            yield {"url": f"https://localhost:{self.listening[1]}{MUTATE_PATH}"}
            while True:
                await asyncio.sleep(self._refresh_seconds)
                try:
                    await self._refresh()
                except NOT_NOW as error:
                    self._metrics.refreshed(ok=False)
                    _log.warning(
                        "certificate not checked, trying again in %s s: %s", self._refresh_seconds, error
                    )
        finally:
            self._ready = False
            await runner.cleanup()

    async def _until_refreshed(self) -> None:
        tries = 0
        while True:
            try:
                await self._refresh()
            except NOT_NOW as error:
                self._metrics.refreshed(ok=False)
                pause = RETRY_SECONDS[min(tries, len(RETRY_SECONDS) - 1)]
                _log.warning("not ready, trying again in %s s: %s", pause, error)
                tries += 1
                await asyncio.sleep(pause)
            else:
                return

    async def _refresh(self) -> None:
        """Take the Secret's bundle. The API server is told to trust its CA before the certificate is used."""
        if self._also is not None:
            await self._also()
        bundle = await self._certificates.current(datetime.datetime.now(datetime.UTC))
        await self._trust.trust(bundle.ca_certificates)
        if bundle != self._bundle:
            if self._bundle is not None and not certs.same_ca(bundle, self._bundle):
                _log.info("new CA: its certificate is used in %s s", self._settle_seconds)
                await asyncio.sleep(self._settle_seconds)
            load_pair(self._context, bundle.certificate, bundle.key)
            self._bundle = bundle
            self._metrics.loaded(bundle.certificate, bundle.ca_certificates)
            _log.info("serving certificate loaded")
        self._metrics.refreshed(ok=True)

    @aiohttp.web.middleware
    async def _counted(self, request: aiohttp.web.Request, handler: Handler) -> aiohttp.web.StreamResponse:
        """Count what becomes of each review."""
        if request.path not in (MUTATE_PATH, RESTRICTED_PATH):
            return await handler(request)
        begun = time.monotonic()
        # For a request that is answered before it has an exchange of its own.
        exchange.set(Exchange("", False))
        answer = await handler(request)
        self._metrics.answered(
            "bad" if answer.status >= 400 else exchange.get().outcome, time.monotonic() - begun
        )
        return answer

    async def _shown(self, request: aiohttp.web.Request) -> aiohttp.web.Response:
        content_type, body = self._metrics.render(request.headers.get("Accept", ""))
        return aiohttp.web.Response(body=body, headers={"Content-Type": content_type})

    async def _livez(self, _: aiohttp.web.Request) -> aiohttp.web.Response:
        return aiohttp.web.Response(text="ok\n")

    async def _readyz(self, _: aiohttp.web.Request) -> aiohttp.web.Response:
        return aiohttp.web.Response(
            text="ok\n" if self._ready else "stopping\n", status=200 if self._ready else 503
        )

    async def _mutate(self, request: aiohttp.web.Request, answer: ReviewFn) -> aiohttp.web.Response:
        """Takes what the API server sends: JSON, with its length ahead."""
        if request.content_type != "application/json":
            return _error(415, "allowed: Content-Type application/json")
        length = request.content_length
        if length is None:
            return _error(411, "allowed: a body with Content-Length")
        if length > MAX_BODY_BYTES:
            return _error(413, f"allowed: a body of at most {MAX_BODY_BYTES} bytes")
        if self._held + length > MAX_HELD_BYTES:
            return _error(503, f"busy: {self._held} bytes of other reviews are being answered")
        self._held += length
        try:
            async with asyncio.timeout(READ_TIMEOUT_SECONDS):
                body = await request.read()
            async with self._turn:
                return await _respond(body, answer, request.path == RESTRICTED_PATH)
        except TimeoutError:
            return _error(408, f"no complete body in {READ_TIMEOUT_SECONDS} s")
        finally:
            self._held -= length


async def _respond(body: bytes, answer: ReviewFn, restricted: bool) -> aiohttp.web.Response:
    if reviews.too_many_values(body):
        uid = reviews.uid(body)
        text = (
            f"evenstream: pod left without the sidecar: allowed: at most {reviews.MAX_VALUES} values in a pod"
        )
        if not uid:
            return _error(413, text)
        exchange.get().outcome = "refused"
        return aiohttp.web.json_response(reviews.answer({"uid": uid, "allowed": True, "warnings": [text]}))
    try:
        review = reviews.parse(body)
    except reviews.BadReviewError as error:
        return _error(400, str(error))
    return aiohttp.web.json_response(await _answer(review, answer, restricted))


async def _answer(review: Mapping[str, Any], answer: ReviewFn, restricted: bool) -> Json:
    """kopf's answer with the handler's patch. Whatever goes wrong, the pod is admitted: a mesh that fails
    must not stop anybody's rollout."""
    request = review["request"]
    current = Exchange(str(request.get("namespace") or ""), restricted)
    exchange.set(current)
    try:
        answered = await answer(review)
        response: Json = dict(answered["response"])
    except Exception as error:
        _log.exception("review %s failed", request["uid"])
        current.patch.clear()
        current.outcome = "failed"
        text = f"evenstream: pod left without the sidecar: internal error ({type(error).__name__})"
        response = {"uid": request["uid"], "allowed": True, "warnings": [text]}
    if current.patch:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(json.dumps(current.patch).encode()).decode()
    return reviews.answer(response)


def _error(status: int, text: str) -> aiohttp.web.Response:
    return aiohttp.web.json_response({"error": text}, status=status)
