"""The server over time: a renewed certificate without a restart, a webhook configuration that is healed."""

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from serving import NAME

from injector import certs
from injector.cluster import ApiError
from injector.server import Server

DEADLINE_SECONDS = 20.0


class Certificates:
    """A Secret that another replica may renew."""

    def __init__(self) -> None:
        self.bundle = certs.issue([NAME], datetime.datetime.now(datetime.UTC))

    def renew(self) -> None:
        self.bundle = certs.issue([NAME], datetime.datetime.now(datetime.UTC), self.bundle)

    async def current(self, now: datetime.datetime) -> certs.Bundle:
        return self.bundle


class Webhook:
    """A MutatingWebhookConfiguration's caBundle."""

    def __init__(self) -> None:
        self.ca = b""
        self.failures = 0
        self.changed = asyncio.Event()

    async def trust(self, ca_certificates: bytes) -> None:
        if self.failures:
            self.failures -= 1
            raise ApiError("PATCH: 500")
        self.ca = ca_certificates
        self.changed.set()


@asynccontextmanager
async def _serving(
    certificates: certs.Files | Certificates, webhook: certs.Files | Webhook
) -> AsyncIterator[Server]:
    async def answer(review: object) -> object:
        raise AssertionError("no review is sent here")

    server = Server("127.0.0.1", 0, certificates, webhook, refresh_seconds=0.01)
    running = server(answer)
    await anext(running)
    refreshing = asyncio.ensure_future(anext(running))
    try:
        yield server
    finally:
        refreshing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await refreshing


async def _presented(server: Server, ca: bytes) -> bytes:
    """The certificate that the server shows to a client that trusts `ca`."""
    assert server.listening is not None
    context = ssl.create_default_context(cadata=ca.decode())
    _, writer = await asyncio.open_connection(*server.listening, ssl=context, server_hostname=NAME)
    try:
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        assert isinstance(shown, bytes)
        return shown
    finally:
        writer.close()


def _der(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)


def test_a_certificate_that_another_replica_renewed_is_served_without_a_restart():
    async def scenario() -> None:
        certificates, webhook = Certificates(), Webhook()
        async with _serving(certificates, webhook) as server, asyncio.timeout(DEADLINE_SECONDS):
            assert await _presented(server, webhook.ca) == _der(certificates.bundle.certificate)
            certificates.renew()
            while await _presented(server, webhook.ca) != _der(certificates.bundle.certificate):
                webhook.changed.clear()
                await webhook.changed.wait()

    asyncio.run(scenario())


def test_a_webhook_configuration_applied_anew_gets_the_ca_again_even_after_failures():
    async def scenario() -> None:
        certificates, webhook = Certificates(), Webhook()
        async with _serving(certificates, webhook), asyncio.timeout(DEADLINE_SECONDS):
            webhook.ca, webhook.failures = b"", 3
            webhook.changed.clear()
            await webhook.changed.wait()
            assert webhook.ca == certificates.bundle.ca_certificates

    asyncio.run(scenario())


def test_certificates_from_files_are_taken_as_they_change(tmp_path: Path):
    """As the kubelet swaps a Secret's content under a mount."""

    def write(bundle: certs.Bundle) -> None:
        files = {
            certs.CERTIFICATE: bundle.certificate,
            certs.KEY: bundle.key,
            certs.CA_CERTIFICATES: bundle.ca_certificates,
        }
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)

    async def scenario() -> None:
        first = certs.issue([NAME], datetime.datetime.now(datetime.UTC))
        write(first)
        files = certs.Files(tmp_path)
        async with _serving(files, files) as server, asyncio.timeout(DEADLINE_SECONDS):
            assert await _presented(server, first.ca_certificates) == _der(first.certificate)
            (tmp_path / certs.KEY).write_bytes(b"half of it")
            second = certs.issue([NAME], datetime.datetime.now(datetime.UTC), first)
            write(second)
            while await _presented(server, first.ca_certificates) != _der(second.certificate):
                await asyncio.sleep(0)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (certs.KEY, None, "tls.key: No such file"),
        (certs.CERTIFICATE, b"", "Unable to load PEM file"),
        (certs.KEY, b"x", "Could not deserialize|Unable to load PEM"),
        (certs.KEY, "other", "tls.crt and tls.key do not belong together"),
        (certs.CA_CERTIFICATES, b"x", "Unable to load PEM"),
    ],
)
def test_files_that_are_no_certificate_are_one_clear_error(tmp_path: Path, name: str, content, says: str):
    now = datetime.datetime.now(datetime.UTC)
    bundle, other = certs.issue([NAME], now), certs.issue([NAME], now)
    (tmp_path / certs.CERTIFICATE).write_bytes(bundle.certificate)
    (tmp_path / certs.KEY).write_bytes(bundle.key)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(other.key if content == "other" else content)
    with pytest.raises(certs.FilesError, match=says) as raised:
        asyncio.run(certs.Files(tmp_path).current(now))
    assert "\n" not in str(raised.value)
