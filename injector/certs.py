"""The webhook's certificates: a CA of our own and a serving certificate, kept together in one Secret.

Issuing is pure (`issue`, `due`; the time is an argument); `Store` shares one bundle between replicas by
the Secret's resourceVersion. kopf's own self-signed certificates fail on current OpenSSL (no key usage),
so these are made with `cryptography`.
"""

from __future__ import annotations

import base64
import binascii
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# The CA never leaves the Secret, and trust in it is one field of one object, so it may live long.
CA_LIFE: Final = datetime.timedelta(days=3650)
# Short enough that renewal is exercised all the time, long enough to outlive a neglected cluster's outage.
SERVING_LIFE: Final = datetime.timedelta(days=90)
# A serving certificate is replaced when a third of its life is left: 30 days to notice that it cannot be.
RENEW_BEFORE: Final = SERVING_LIFE / 3
# Clocks of nodes and control plane differ; a certificate must not be "not yet valid" on any.
BACKDATE: Final = datetime.timedelta(hours=1)
# Two replicas that start together meet in one conflict; more in a row mean that something else is wrong.
MAX_CONFLICTS: Final = 5

CA_KEY: Final = "ca.key"
CA_CERTIFICATES: Final = "ca.crt"
KEY: Final = "tls.key"
CERTIFICATE: Final = "tls.crt"


class Bundle(NamedTuple):
    """PEM each. `ca_certificates`: the current CA first, then former ones that may still be in use."""

    ca_certificates: bytes
    ca_key: bytes
    certificate: bytes
    key: bytes


class ConflictError(Exception):
    """Another replica wrote the Secret first: read it again."""


class FilesError(Exception):
    """No usable certificate in a directory; one line that names it and says why."""


class SecretApi(Protocol):
    """The three things done with the one Secret."""

    async def read(self) -> Mapping[str, Any] | None:
        """The Secret as a dict, or None if there is none."""

    async def create(self, data: Mapping[str, str]) -> None:
        """Raises ConflictError if it exists by now."""

    async def replace(self, data: Mapping[str, str], resource_version: str) -> None:
        """Raises ConflictError unless the Secret still has this resourceVersion."""


def issue(
    names: Sequence[str], now: datetime.datetime, former: Bundle | None = None, *, new_ca: bool = False
) -> Bundle:
    """A new serving certificate for the DNS `names`, signed by the former bundle's CA while that outlives
    it, else (or with `new_ca`) by a new one. Former CAs stay trusted, as replicas change over one by one, until
    they expire or a certificate of the CA after them has lived its life."""
    lives = former is not None and _load(former.ca_certificates).not_valid_after_utc > now + SERVING_LIFE
    if former is not None and lives and not new_ca:
        ca_certificate, ca_key = _load(former.ca_certificates), _load_key(former.ca_key)
        changed_over = _load(former.certificate).not_valid_after_utc - now < RENEW_BEFORE
        trusted = _pem(ca_certificate) if changed_over else former.ca_certificates
    else:
        ca_key = ec.generate_private_key(ec.SECP256R1())
        ca_certificate = _ca(ca_key, now)
        trusted = _pem(ca_certificate)
        if former is not None:
            old = x509.load_pem_x509_certificates(former.ca_certificates)
            trusted += b"".join(_pem(one) for one in old if one.not_valid_after_utc > now)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _serving(key, names, ca_certificate, ca_key, now)
    return Bundle(trusted, _pem_key(ca_key), _pem(certificate), _pem_key(key))


def due(bundle: Bundle, names: Sequence[str], now: datetime.datetime) -> bool:
    """Whether the serving certificate must be replaced: near its end, or not for these names."""
    certificate = _load(bundle.certificate)
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return True
    for_names = set(alternative.get_values_for_type(x509.DNSName))
    return certificate.not_valid_after_utc - now < RENEW_BEFORE or not for_names.issuperset(names)


def same_ca(one: Bundle, other: Bundle) -> bool:
    return _load(one.ca_certificates) == _load(other.ca_certificates)


def to_data(bundle: Bundle) -> dict[str, str]:
    """The `data` of a Secret."""
    keys = (CA_CERTIFICATES, CA_KEY, CERTIFICATE, KEY)
    return {key: base64.b64encode(pem).decode() for key, pem in zip(keys, bundle, strict=True)}


def from_data(data: Mapping[str, str]) -> Bundle:
    """Raises ValueError if something is missing, is no PEM, or certificate and key do not belong together."""
    try:
        pems = [base64.b64decode(data[key]) for key in (CA_CERTIFICATES, CA_KEY, CERTIFICATE, KEY)]
    except (KeyError, binascii.Error) as error:
        raise ValueError(f"the Secret's data is not complete: {error}") from None
    bundle = Bundle(*pems)
    pairs = ((bundle.ca_certificates, bundle.ca_key), (bundle.certificate, bundle.key))
    for certificate, key in pairs:
        if _load(certificate).public_key() != _load_key(key).public_key():
            raise ValueError("the Secret's certificate and key do not belong together")
    return bundle


class Store:
    """The bundle that all replicas share. A Secret that is deleted or damaged gets a new CA, and the one before
    it stays trusted for as long as a replica may still serve under it."""

    def __init__(self, api: SecretApi, names: Sequence[str]) -> None:
        self._api = api
        self._names = names
        self._last: Bundle | None = None

    async def current(self, now: datetime.datetime) -> Bundle:
        """The Secret's bundle, issued or renewed first where that is due.

        Safe to call from several replicas at once: whoever writes first wins and the others take that.
        Raises ConflictError if it never settles, and whatever the API raises.
        """
        for _ in range(MAX_CONFLICTS):
            secret = await self._api.read()
            former = _former(secret)
            if former is not None and not due(former, self._names, now):
                self._last = former
                return former
            bundle = issue(self._names, now, former or self._last, new_ca=former is None)
            try:
                if secret is None:
                    await self._api.create(to_data(bundle))
                else:
                    await self._api.replace(to_data(bundle), secret["metadata"]["resourceVersion"])
            except ConflictError:
                continue
            self._last = bundle
            return bundle
        raise ConflictError(f"the Secret was changed by others {MAX_CONFLICTS} times in a row")


class Files:
    """A certificate that something else makes and renews (cert-manager, say), in a directory where the kubelet
    keeps a Secret's content. Whoever makes it also tells the API server to trust its CA."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def current(self, now: datetime.datetime) -> Bundle:
        """What is there now; its `ca_key` is empty. Raises FilesError."""
        try:
            certificate, key = ((self._folder / name).read_bytes() for name in (CERTIFICATE, KEY))
            path = self._folder / CA_CERTIFICATES
            ca_certificates = path.read_bytes() if path.exists() else certificate
            if _load(certificate).public_key() != serialization.load_pem_private_key(key, None).public_key():
                raise FilesError(f"{self._folder}: {CERTIFICATE} and {KEY} do not belong together")
            _load(ca_certificates)
        except OSError as error:
            raise FilesError(f"{error.filename}: {error.strerror}") from None
        except (ValueError, TypeError) as error:
            raise FilesError(f"{self._folder}: {' '.join(str(error).split())}") from None
        return Bundle(ca_certificates, b"", certificate, key)

    async def trust(self, ca_certificates: bytes) -> None:
        """Not ours to do."""


def _former(secret: Mapping[str, Any] | None) -> Bundle | None:
    """None for a Secret that is absent, empty or damaged: then everything is issued anew."""
    try:
        return from_data(secret.get("data") or {}) if secret is not None else None
    except ValueError:
        return None


def _ca(key: ec.EllipticCurvePrivateKey, now: datetime.datetime) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Evenstream injector CA")])
    builder = _builder(name, name, key.public_key(), now, CA_LIFE)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    return builder.sign(key, hashes.SHA256())


def _serving(
    key: ec.EllipticCurvePrivateKey,
    names: Sequence[str],
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    now: datetime.datetime,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Evenstream injector")])
    builder = _builder(subject, ca.subject, key.public_key(), now, SERVING_LIFE)
    alternative = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    builder = builder.add_extension(alternative, critical=False)
    builder = builder.add_extension(issuer, critical=False)
    return builder.sign(ca_key, hashes.SHA256())


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    life: datetime.timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _load(pem: bytes) -> x509.Certificate:
    """The first of the PEM's certificates."""
    return x509.load_pem_x509_certificate(pem)


def _load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the Secret's key is not an EC key")  # noqa: TRY004 - bad data, not a caller's mistake
    return key


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
