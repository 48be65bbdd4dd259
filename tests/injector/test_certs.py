"""Certificates hold in OpenSSL's strict mode and are renewed in time, and replicas agree on one."""

import asyncio
import datetime
import socket
import ssl
import threading
from collections.abc import Mapping
from typing import Any

import pytest
from cryptography import x509

from injector import certs
from injector.cluster import load_pair

NAME = "evenstream-injector.evenstream-system.svc"
NOW = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)


class Secrets:
    """One Secret in memory, with the API server's rules for writing it."""

    def __init__(self) -> None:
        self.secret: dict[str, Any] | None = None
        self.version = 0
        self.before_write: Any = None  # called once, ahead of the next write: another replica's doing

    async def read(self) -> Mapping[str, Any] | None:
        await asyncio.sleep(0)
        return self.secret

    async def create(self, data: Mapping[str, str]) -> None:
        await self._interfere()
        if self.secret is not None:
            raise certs.ConflictError("exists")
        self._store(data)

    async def replace(self, data: Mapping[str, str], resource_version: str) -> None:
        await self._interfere()
        if self.secret is None or self.secret["metadata"]["resourceVersion"] != resource_version:
            raise certs.ConflictError("changed")
        self._store(data)

    def _store(self, data: Mapping[str, str]) -> None:
        self.version += 1
        self.secret = {"metadata": {"resourceVersion": str(self.version)}, "data": dict(data)}

    async def _interfere(self) -> None:
        await asyncio.sleep(0)
        if self.before_write is not None:
            interfere, self.before_write = self.before_write, None
            await interfere()


def test_a_client_that_verifies_strictly_accepts_the_certificate():
    bundle = certs.issue([NAME], datetime.datetime.now(datetime.UTC))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_pair(server, bundle.certificate, bundle.key)
    client = ssl.create_default_context(cadata=bundle.ca_certificates.decode())
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with server.wrap_socket(theirs, server_side=True) as connection:
            connection.sendall(b"hello")

    thread = threading.Thread(target=serve)
    thread.start()
    with client.wrap_socket(ours, server_hostname=NAME) as connection:
        assert connection.recv(5) == b"hello"
        assert connection.version() == "TLSv1.3"
    thread.join(10)


def test_a_client_for_another_name_refuses_it():
    bundle = certs.issue([NAME], NOW)
    names = x509.load_pem_x509_certificate(bundle.certificate).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.DNSName) == [NAME]


@pytest.mark.parametrize(("age", "expected"), [(0, False), (59, False), (61, True), (91, True)])
def test_renewal_is_due_when_a_third_of_the_life_is_left(age: int, expected: bool):
    assert certs.due(certs.issue([NAME], NOW), [NAME], NOW + age * DAY) is expected


def test_renewal_is_due_for_another_name():
    assert certs.due(certs.issue([NAME], NOW), [NAME, "another.svc"], NOW)


def test_renewal_keeps_the_ca_so_that_nobody_must_learn_a_new_one():
    first = certs.issue([NAME], NOW)
    second = certs.issue([NAME], NOW + 61 * DAY, first)
    assert second.ca_certificates == first.ca_certificates
    assert second.certificate != first.certificate
    _verifies(second.certificate, second.ca_certificates)


def test_a_ca_near_its_end_is_replaced_and_the_former_stays_trusted_meanwhile():
    first = certs.issue([NAME], NOW)
    late = NOW + certs.CA_LIFE - 80 * DAY
    second = certs.issue([NAME], late, first)
    authorities = x509.load_pem_x509_certificates(second.ca_certificates)
    assert len(authorities) == 2
    _verifies(second.certificate, second.ca_certificates)
    _verifies(first.certificate, second.ca_certificates, which=1)
    # Renewed once more after the former one's end: only one is left at the next change of CA.
    third = certs.issue([NAME], late + certs.CA_LIFE - 80 * DAY, second)
    assert len(x509.load_pem_x509_certificates(third.ca_certificates)) == 2


def _verifies(certificate: bytes, authorities: bytes, which: int = 0) -> None:
    authority = x509.load_pem_x509_certificates(authorities)[which]
    x509.load_pem_x509_certificate(certificate).verify_directly_issued_by(authority)


def test_what_is_stored_is_what_is_read():
    bundle = certs.issue([NAME], NOW)
    assert certs.from_data(certs.to_data(bundle)) == bundle


@pytest.mark.parametrize("damage", ["missing", "not base64", "not PEM", "another key"])
def test_a_damaged_secret_is_told_and_issued_anew(damage: str):
    data = certs.to_data(certs.issue([NAME], NOW))
    if damage == "missing":
        del data[certs.KEY]
    else:
        other = certs.to_data(certs.issue([NAME], NOW))[certs.KEY]
        data[certs.KEY] = {"not base64": "%%%", "not PEM": "AAAA", "another key": other}[damage]
    with pytest.raises(ValueError):
        certs.from_data(data)
    secrets = Secrets()
    secrets._store(data)
    bundle = asyncio.run(certs.Store(secrets, [NAME]).current(NOW))
    assert secrets.secret is not None
    assert certs.from_data(secrets.secret["data"]) == bundle


def test_an_empty_secret_made_by_hand_is_filled():
    secrets = Secrets()
    secrets._store({})
    bundle = asyncio.run(certs.Store(secrets, [NAME]).current(NOW))
    assert certs.from_data(secrets.secret["data"]) == bundle  # type: ignore[index]


def test_replicas_that_start_together_agree_on_one_bundle():
    secrets = Secrets()

    async def start_all() -> list[certs.Bundle]:
        return await asyncio.gather(*(certs.Store(secrets, [NAME]).current(NOW) for _ in range(5)))

    bundles = asyncio.run(start_all())
    assert len(set(bundles)) == 1
    assert secrets.version == 1


def test_replicas_that_renew_together_agree_on_one_bundle():
    secrets = Secrets()
    store = certs.Store(secrets, [NAME])

    async def scenario() -> tuple[certs.Bundle, certs.Bundle, certs.Bundle]:
        first = await store.current(NOW)
        late = NOW + 61 * DAY
        secrets.before_write = lambda: store.current(late)
        second = await store.current(late)
        return first, second, await store.current(late)

    first, second, third = asyncio.run(scenario())
    assert first != second
    assert second == third
    assert secrets.version == 2


def test_a_secret_that_never_settles_is_an_error_and_not_a_loop():
    class Restless(Secrets):
        async def create(self, data: Mapping[str, str]) -> None:
            raise certs.ConflictError("exists")

    with pytest.raises(certs.ConflictError, match="5 times in a row"):
        asyncio.run(certs.Store(Restless(), [NAME]).current(NOW))


def _cas(bundle: certs.Bundle) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(bundle.ca_certificates)


@pytest.mark.parametrize("data", [None, {}, {"ca.crt": "AAAA"}])
def test_a_secret_that_is_deleted_or_damaged_gets_a_new_ca_beside_the_one_in_use(data: dict[str, str] | None):
    async def scenario() -> None:
        secrets = Secrets()
        store = certs.Store(secrets, [NAME])
        first = await store.current(NOW)
        secrets.secret = None if data is None else {"metadata": {"resourceVersion": "1"}, "data": data}
        second = await store.current(NOW + DAY)
        assert not certs.same_ca(first, second)
        assert _cas(second)[1:] == _cas(first)
        assert await store.current(NOW + DAY) == second
        # Another replica takes it as it is, whatever it had.
        assert await certs.Store(secrets, [NAME]).current(NOW + DAY) == second

    asyncio.run(scenario())


def test_a_former_ca_is_trusted_until_the_certificate_after_it_has_lived_its_life():
    first = certs.issue([NAME], NOW)
    second = certs.issue([NAME], NOW, first, new_ca=True)
    assert len(_cas(certs.issue([NAME], NOW + DAY, second))) == 2
    renewed = certs.issue([NAME], NOW + certs.SERVING_LIFE - certs.RENEW_BEFORE + DAY, second)
    assert _cas(renewed) == _cas(second)[:1]
