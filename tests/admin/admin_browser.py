"""A real socket server for the admin port, and a real Chromium for it, through ChromeDriver's protocol."""

from __future__ import annotations

import base64
import contextlib
import json
import selectors
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from freeports import free_port

from sidecar.admin.connection import AdminConnection
from sidecar.admin.server import AdminServer

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
FLAGS = (
    *(
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-sync",
    ),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    *("--hide-scrollbars", "--force-color-profile=srgb"),
)
START_SECONDS = 60.0


class SocketTransport:
    """A non-blocking socket as AdminConnection wants it."""

    def __init__(self, sock: socket.socket, loop: Loop) -> None:
        self.sock = sock
        self.handler: AdminConnection | None = None
        self.closing = False
        self._loop = loop
        self._out = bytearray()

    def write(self, data: bytes) -> None:
        self._out += data
        self.flush()

    def unsent(self) -> int:
        return len(self._out)

    def close(self) -> None:
        self.closing = True
        self.flush()

    def flush(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._out:
                del self._out[: self.sock.send(self._out)]
        self._loop.watch(self)


class Loop:
    """One thread, one selector: what __main__ does for the admin port, in small."""

    def __init__(self, server: AdminServer, each_turn: Callable[[], None]) -> None:
        self._server = server
        self._each_turn = each_turn
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._stop = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread.start()

    def stop(self) -> None:
        self._stop = True
        self._thread.join(10)
        assert not self._thread.is_alive()

    def watch(self, transport: SocketTransport) -> None:
        if transport.closing and not transport.unsent():
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(transport.sock)
            transport.sock.close()
        elif transport.sock.fileno() in self._selector.get_map():
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if transport.unsent() else 0)
            self._selector.modify(transport.sock, events, transport)

    def _run(self) -> None:
        while not self._stop:
            wait = min(0.02, max(0.0, self._server.deadline() - time.monotonic()))
            for key, events in self._selector.select(wait):
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    self._serve(key.data, events)
            self._each_turn()
            self._server.tick(time.monotonic())
        self._server.close()
        self._listener.close()
        self._selector.close()

    def _accept(self) -> None:
        sock, address = self._listener.accept()
        sock.setblocking(False)
        transport = SocketTransport(sock, self)
        self._selector.register(sock, selectors.EVENT_READ, transport)
        transport.handler = self._server.accept(transport, address[0], time.monotonic())

    def _serve(self, transport: SocketTransport, events: int) -> None:
        assert transport.handler is not None
        try:
            if events & selectors.EVENT_WRITE:
                transport.flush()
            if events & selectors.EVENT_READ and not transport.closing:
                transport.handler.received(transport.sock.recv(65536), time.monotonic())
        except OSError as error:
            transport.handler.lost(str(error), time.monotonic())
            transport.close()


class Browser:
    """One ChromeDriver session."""

    def __init__(
        self, driver: str, width: int, height: int, *, phone: bool, dark: bool, profile: Path
    ) -> None:
        self._driver = driver
        flags = [*FLAGS, f"--window-size={width},{height}", f"--user-data-dir={profile}"]
        chrome: dict[str, Any] = {"binary": CHROMIUM, "args": flags}
        if dark:
            flags.append("--blink-settings=preferredColorScheme=0")
        if phone:
            metrics = {"width": width, "height": height, "pixelRatio": 2.0, "touch": True}
            chrome["mobileEmulation"] = {"deviceMetrics": metrics}
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": chrome,
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        session = _post(f"{driver}/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"{driver}/session/{session['sessionId']}"

    def open(self, url: str) -> None:
        _post(f"{self._session}/url", {"url": url})

    def run(self, script: str) -> Any:
        return _post(f"{self._session}/execute/sync", {"script": script, "args": []})

    def wait_for(self, script: str, seconds: float = 20.0) -> Any:
        """The first truthy value of an expression; AssertionError after `seconds`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := self.run(f"return {script}"):
                return found
        raise AssertionError(f"not within {seconds} s: {script}")

    def size(self, width: int, height: int) -> None:
        _post(f"{self._session}/window/rect", {"width": width, "height": height})

    def screenshot(self, path: Path) -> None:
        with urllib.request.urlopen(f"{self._session}/screenshot", timeout=60) as answer:
            path.write_bytes(base64.b64decode(json.load(answer)["value"]))

    def complaints(self) -> list[str]:
        """What the browser's console says of faults."""
        entries = _post(f"{self._session}/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]

    def quit(self) -> None:
        urllib.request.urlopen(urllib.request.Request(self._session, method="DELETE"), timeout=60).close()


def _post(url: str, body: dict[str, Any]) -> Any:
    data = json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=90) as answer:
        return json.load(answer)["value"]


@contextlib.contextmanager
def chromedriver(log: Path) -> Iterator[str]:
    """The URL of a ChromeDriver on a free port of the loopback."""
    assert CHROMEDRIVER is not None
    port = free_port()
    with log.open("wb") as out:
        process = subprocess.Popen([CHROMEDRIVER, f"--port={port}"], stdout=out, stderr=out)
    try:
        url = f"http://127.0.0.1:{port}"
        end = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/status", timeout=5) as answer:
                if json.load(answer)["value"]["ready"]:
                    break
            assert process.poll() is None, f"chromedriver ended: {log.read_text()}"
            assert time.monotonic() < end, f"chromedriver is not ready: {log.read_text()}"
        yield url
    finally:
        process.terminate()
        process.wait(20)
