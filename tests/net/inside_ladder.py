"""Runs as root in fresh network and mount namespaces (see test_ladder_for_real.py) and prints what it saw as JSON.

A sidecar in a pod's surroundings (its token, CA and resolv.conf where a pod has them), an API server over TLS and
a DNS server over TCP on loopback, two backends, and calls throughout. Then the API server goes away.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import dns.message
import dns.rdatatype
import dns.rrset
import fakeapi
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from net_scene import Caller, Grpc, SidecarProcess, wait_for
from objects import endpoint, endpoint_slice, service

API, DNS, PORT = "127.0.1.1", "127.0.1.53", 50051
BACKENDS = ["127.0.2.1", "127.0.2.2"]
NAME = "greeter.default.svc.cluster.local."
ACCOUNT = Path("/run/secrets/kubernetes.io/serviceaccount")
AWAY_SECONDS = 8.0  # under load; ten minutes of it are tests/discovery/test_outage.py's, in virtual time


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def surroundings(folder: Path) -> tuple[Path, Path]:
    """What a pod finds in its file system; returns the API server's certificate and key."""
    run("ip", "link", "set", "lo", "up")
    run("mount", "-t", "tmpfs", "none", "/run")
    ACCOUNT.mkdir(parents=True)
    (ACCOUNT / "token").write_text("good")
    resolv = folder / "resolv.conf"
    resolv.write_text(f"search default.svc.cluster.local svc.cluster.local\nnameserver {DNS}\n")
    run("mount", "--bind", str(resolv), "/etc/resolv.conf")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "api")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(API))]), False)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    certificate, private = ACCOUNT / "ca.crt", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return certificate, private


class ApiServer:
    """The API server in memory of tests/discovery, on a real socket."""

    now = 0.0

    def __init__(self, certificate: Path, private: Path) -> None:
        self.fake = fakeapi.FakeApiServer(self)  # type: ignore[arg-type]
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate, private)
        self._tls.set_alpn_protocols(["h2"])
        self._lock = threading.RLock()
        self._listener: socket.socket | None = None
        self._socks: dict[Any, ssl.SSLSocket] = {}
        self.octets_up = self.octets_down = 0

    def up(self) -> None:
        self._listener = socket.create_server((API, 443))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def down(self) -> None:
        """Gone: every connection is reset, none is taken."""
        assert self._listener is not None
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for sock in self._socks.values():
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                taken, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(taken,), daemon=True).start()

    def _serve(self, taken: socket.socket) -> None:
        try:
            sock = self._tls.wrap_socket(taken, server_side=True)
        except OSError:
            return
        with self._lock:
            connection = fakeapi.Connection(self.fake, None)  # type: ignore[arg-type]
            self._socks[connection] = sock
            self.fake.connections.append(connection)
            connection.flush()
        try:
            while data := sock.recv(65536):
                with self._lock:
                    connection.receive(data)
        except OSError:
            pass
        with self._lock:
            self.fake.hung_up(connection)
            del self._socks[connection]

    def put(self, obj: dict[str, Any]) -> None:
        with self._lock:
            self.fake.put(obj)

    # What the fake asks of its world

    def deliver(self, connection: Any, data: bytes) -> None:
        try:
            self._socks[connection].sendall(data)
        except OSError:
            connection.open = False

    def later(self, act: Any) -> None:
        act()


def serve_dns() -> None:
    listener = socket.create_server((DNS, 53))

    def answer(taken: socket.socket) -> None:
        data = b""
        while more := taken.recv(65536):
            data += more
            while len(data) >= 2 and len(data) >= 2 + int.from_bytes(data[:2], "big"):
                end = 2 + int.from_bytes(data[:2], "big")
                query, data = dns.message.from_wire(data[2:end]), data[end:]
                reply = dns.message.make_response(query)
                if query.question[0].to_text() == f"{NAME} IN A":
                    reply.answer.append(dns.rrset.from_text(NAME, 5, "IN", "A", *BACKENDS))
                wire = reply.to_wire()
                taken.sendall(len(wire).to_bytes(2, "big") + wire)

    def accept() -> None:
        while True:
            threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


class Load:
    """One call after another; how many ended how."""

    def __init__(self, port: int) -> None:
        self.caller = Caller(port)
        self.codes: list[tuple[str, str]] = []
        self._going = True
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while self._going:
            self.codes.append(self.caller.call()[:2])
            time.sleep(0.005)

    def end(self) -> dict[str, Any]:
        self._going = False
        self._thread.join()
        self.caller.close()
        failed = [each for each in self.codes if each[0] != "OK"]
        return {"calls": len(self.codes), "failed": failed}


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    state = folder / "state"
    state.mkdir()
    api = ApiServer(*surroundings(folder))
    api.put(service())
    api.put(endpoint_slice("greeter-a", [endpoint(host) for host in BACKENDS]))
    serve_dns()
    backends = [Grpc(host, PORT) for host in BACKENDS]
    env = {"KUBERNETES_SERVICE_HOST": API, "KUBERNETES_SERVICE_PORT": "443"}

    def start() -> SidecarProcess:
        return SidecarProcess(folder, "--state-dir", str(state), env=env).ready()

    def rung(sidecar: SidecarProcess) -> str:
        return str(sidecar.service()["rung"])

    seen: dict[str, Any] = {}
    api.up()
    sidecar = start()
    wait_for("live", lambda: rung(sidecar) == "live")
    load = Load(sidecar.port)
    wait_for("calls", lambda: len(load.codes) > 50)
    wait_for("the state is kept", lambda: sidecar.status()["source"]["counters"]["saves"] > 0)

    api.down()
    wait_for("memory", lambda: rung(sidecar) == "memory")
    away = time.monotonic()
    wait_for("time to pass", lambda: time.monotonic() > away + AWAY_SECONDS)
    seen["memory age"] = sidecar.service()["rung_age_seconds"]
    api.put(endpoint_slice("greeter-a", [endpoint(BACKENDS[0])]))
    api.up()
    back = time.monotonic()
    wait_for("live again", lambda: rung(sidecar) == "live" and len(sidecar.service()["endpoints"]) == 1, 60)
    seen["back after"] = round(time.monotonic() - back, 2)
    seen["away under load"] = load.end()
    wait_for("the new state is kept", lambda: BACKENDS[1] not in (state / "endpoints.json").read_text())

    api.down()
    sidecar.kill()
    sidecar = start()
    wait_for("disk", lambda: rung(sidecar) == "disk")
    load = Load(sidecar.port)
    wait_for("calls", lambda: len(load.codes) > 50)
    seen["disk"] = {**load.end(), "age": sidecar.service()["rung_age_seconds"]}
    seen["disk metric"] = [
        line for line in sidecar.get("/metrics")[1].splitlines() if line.startswith("evenstream_discovery_")
    ]

    sidecar.kill()
    (state / "endpoints.json").unlink()
    sidecar = start()
    wait_for("dns", lambda: rung(sidecar) == "dns")
    # On a busy machine the one may be connected long before the other, and would rightly take all until then.
    first = Caller(sidecar.port)
    begun = [backend.begun for backend in backends]
    wait_for(
        "both serve", lambda: first.call() and all(b.begun > n for b, n in zip(backends, begun, strict=True))
    )
    first.close()
    before = [backend.begun for backend in backends]
    load = Load(sidecar.port)
    wait_for("calls", lambda: len(load.codes) > 50)
    seen["dns"] = load.end()
    seen["dns"]["each"] = [backend.begun - b for backend, b in zip(backends, before, strict=True)]

    api.up()
    wait_for("live at last", lambda: rung(sidecar) == "live", 60)
    seen["exit"] = sidecar.end()
    seen["tracebacks"] = sidecar.text().count("Traceback")
    json.dump(seen, sys.stdout)


if __name__ == "__main__":
    main()
