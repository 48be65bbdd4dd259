"""The status page in a real browser, served by a real socket, at desktop and phone width.

EVENSTREAM_SCREENSHOTS=DIR keeps the pictures there.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import admin_browser
import pytest
from admin_browser import Browser, Loop
from admin_fakes import FakeView, call, change, endpoint, service

from sidecar.admin.server import AdminServer

pytestmark = pytest.mark.skipif(
    admin_browser.CHROMIUM is None or admin_browser.CHROMEDRIVER is None,
    reason="no browser: chromium and chromedriver are not installed (Debian: chromium, chromium-driver)",
)
CALL_RATE = 200  # a second, spread over the turns of the loop


class LiveView(FakeView):
    """An engine with traffic: each turn makes the calls that are due, by turns over ready endpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.calling = False
        self.uneven = False
        self._started = time.monotonic()
        self._made = 0

    def each_turn(self) -> None:
        with self.lock:
            due = int((time.monotonic() - self._started) * CALL_RATE)
            for number in range(self._made, due) if self.calling else ():
                for each in self.services:
                    self._call(each, number)
            self._made = due

    def _call(self, each: object, number: int) -> None:
        one = self.services[self.services.index(each)]  # type: ignore[arg-type]
        ready = [i for i, e in enumerate(one["endpoints"]) if e["state"] == "ready"]
        if ready:
            at = ready[0] if self.uneven else ready[number % len(ready)]
            call(one, at, code=14 if number % 97 == 0 else 0, seconds=0.0004 + (number % 13) * 0.0006)


@pytest.fixture
def live() -> LiveView:
    return LiveView()


@pytest.fixture
def loop(live: LiveView) -> Iterator[Loop]:
    running = Loop(AdminServer(live, on_drain=None), live.each_turn)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with admin_browser.chromedriver(tmp_path_factory.mktemp("driver") / "log") as url:
        yield url


@pytest.fixture(params=["desktop", "phone", "desktop-dark", "phone-dark"])
def browser(request: pytest.FixtureRequest, driver: str, tmp_path: Path) -> Iterator[Browser]:
    phone, dark = "phone" in request.param, "dark" in request.param
    width, height = (390, 844) if phone else (1280, 1000)
    opened = Browser(driver, width, height, phone=phone, dark=dark, profile=tmp_path / "profile")
    try:
        yield opened
    finally:
        opened.quit()


@pytest.fixture
def desktop(driver: str, tmp_path: Path) -> Iterator[Browser]:
    opened = Browser(driver, 1280, 1000, phone=False, dark=False, profile=tmp_path / "profile")
    try:
        yield opened
    finally:
        opened.quit()


def keep(browser: Browser, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder = Path(os.environ.get("EVENSTREAM_SCREENSHOTS") or tmp_path)
    picture = folder / f"{request.node.name.replace('[', '-').rstrip(']')}.png"
    browser.screenshot(picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


def fits(browser: Browser) -> None:
    """Nothing stands out sideways, and nothing is cut but by an ellipsis."""
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth"), (
        "the page scrolls sideways"
    )
    spilled = browser.run(
        "return [...document.querySelectorAll('.card *')].filter(n => n.getBoundingClientRect().right >"
        " n.closest('.card').getBoundingClientRect().right + 1).map(n => n.outerHTML.slice(0, 80))"
    )
    assert spilled == []


def test_live_bars(
    browser: Browser, loop: Loop, live: LiveView, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    shop = service("orders", 3)
    live.services += [service("greeter", 5), shop]
    for index, each in enumerate(live.services[0]["endpoints"]):
        each["open_streams"] = 12 + (index == 2)
    live.services[0]["endpoints"].append(endpoint(5, "backoff"))
    change(
        live.services[0]["endpoints"][5],
        connect_failures_total=4,
        last_error="10.244.0.6:50051: connection refused, tried again in 1.6 s",
    )
    live.held["connections"] = {
        "open": 3,
        "total": 14,
        "kinds": {"grpc": {"open": 2, "total": 5}, "passthrough": {"open": 1, "total": 9}},
        "passthrough_reasons": {"tls": 7, "http1": 2},
        "passthrough": [
            {
                "destination": "10.96.0.7:443",
                "service": "payments.shop:443",
                "reason": "tls",
                "connections": 7,
            },
            {"destination": "203.0.113.9:80", "service": "", "reason": "http1", "connections": 2},
        ],
    }
    live.calling = True
    browser.open(loop.url + "/")
    browser.wait_for("Number(document.body.dataset.updates) >= 3")
    assert browser.run("return document.querySelector('[data-service^=greeter] .pill').textContent") == "even"
    rows = "return [...document.querySelectorAll('[data-service^=greeter] .row')]"
    assert browser.run(f"{rows}.map(r => r.dataset.state)") == ["ready"] * 5 + ["backoff"]
    assert browser.run(f"{rows}.map(r => r.querySelector('.open output').textContent)") == [
        *("12", "12", "13", "12", "12", "0")
    ]
    fault = browser.run(f"{rows}[5].querySelector('.fault').textContent")
    assert fault == live.services[0]["endpoints"][5]["last_error"]
    errors = browser.run(f"{rows}[5].querySelector('.errors output').textContent")
    assert errors == "4 · 100 %"
    before = browser.run(f"{rows}.map(r => parseInt(r.querySelector('.calls output').textContent))")
    seen = int(browser.run("return document.body.dataset.updates"))
    browser.wait_for(f"Number(document.body.dataset.updates) >= {seen + 2}")
    after = browser.run(f"{rows}.map(r => parseInt(r.querySelector('.calls output').textContent))")
    assert all(b > a for a, b in zip(before[:5], after[:5], strict=True)), "the bars live"
    passed = browser.run("return document.getElementById('passed').innerText")
    assert "payments.shop:443" in passed
    assert "203.0.113.9:80" in passed
    fits(browser)
    assert browser.complaints() == [], "no outside asset, nothing the page's own policy forbids"
    keep(browser, request, tmp_path)


def test_no_service_yet(
    browser: Browser, loop: Loop, live: LiveView, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    live.held["connections"] = {
        "open": 1,
        "total": 2,
        "kinds": {"grpc": {"open": 0, "total": 0}, "passthrough": {"open": 1, "total": 2}},
        "passthrough_reasons": {"tls": 2},
        "passthrough": [],
    }
    live.held["state"], live.held["reason"] = "starting", "waiting for the first answer of the API server"
    browser.open(loop.url + "/")
    browser.wait_for("document.body.dataset.updates")
    assert browser.run("return document.getElementById('empty').innerText").startswith("No Service yet")
    assert "TLS (2)" in browser.run("return document.getElementById('hint').textContent")
    assert browser.run("return document.getElementById('state').textContent") == "starting"
    fits(browser)
    assert browser.complaints() == []
    keep(browser, request, tmp_path)


def test_a_long_error_of_the_source_leaves_the_rest_readable(
    browser: Browser, loop: Loop, live: LiveView, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    error = "API server 10.96.0.1:443: timed out after 3 s; what is known stays in force"
    live.held["source"] = {**live.held["source"], "server": "10.96.0.1:443", "last_error": error}
    browser.open(loop.url + "/")
    browser.wait_for("document.body.dataset.updates")
    assert browser.run("return document.getElementById('source-error').textContent") == error
    heights = browser.run("return [...document.querySelectorAll('#source dt')].map(n => n.clientHeight)")
    assert max(heights) < 30, "each label on one line"
    fits(browser)
    keep(browser, request, tmp_path)


def test_unevenness_is_said(
    desktop: Browser, loop: Loop, live: LiveView, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    live.services.append(service("greeter", 3))
    live.calling = live.uneven = True
    desktop.open(loop.url + "/")
    desktop.wait_for("document.querySelector('[data-verdict=uneven]')")
    assert "max/mean 3.00" in desktop.run("return document.querySelector('.why').textContent")
    keep(desktop, request, tmp_path)
    live.uneven = False
    desktop.wait_for("document.querySelector('[data-verdict=even]')", seconds=30)


@pytest.mark.parametrize(
    ("open_streams", "word"),
    [
        ((10, 10, 10, 10), "even"),
        ((1, 1, 1, 2), "even"),  # five streams over four endpoints: nothing evener can be
        ((10, 14, 8, 10), "as random picks"),
        ((40, 0, 0, 0), "uneven"),
        ((4, 0, 0, 0), "as random picks"),  # so few that dice may do it
        ((16, 0, 0, 0), "uneven"),
        ((0, 0, 0, 0), "waiting for calls"),
        ((3,), "one endpoint"),
        ((), "no endpoint"),
    ],
)
def test_verdict_on_open_streams(
    desktop: Browser, loop: Loop, live: LiveView, open_streams: tuple[int, ...], word: str
) -> None:
    live.services.append(service("greeter", len(open_streams)))
    for each, count in zip(live.services[0]["endpoints"], open_streams, strict=True):
        each["open_streams"] = count
    desktop.open(loop.url + "/")
    desktop.wait_for("document.body.dataset.updates")
    assert desktop.run("return document.querySelector('[data-service]').dataset.verdict") == word


def test_slower_endpoints_with_as_many_open_streams_are_even(
    desktop: Browser, loop: Loop, live: LiveView
) -> None:
    """Least open streams gives a slow endpoint fewer calls; both have as many open."""
    live.services.append(service("greeter", 2))
    for each in live.services[0]["endpoints"]:
        each["open_streams"] = 10
    live.calling = live.uneven = True
    desktop.open(loop.url + "/")
    desktop.wait_for("/^open streams are even/.test(document.querySelector('.why')?.textContent)")
    assert desktop.run("return document.querySelector('[data-service]').dataset.verdict") == "even"


def test_a_joiner_is_not_judged_by_calls_before_it(desktop: Browser, loop: Loop, live: LiveView) -> None:
    live.services.append(service("greeter", 2))
    call(live.services[0], 0, times=100_000)
    call(live.services[0], 1, times=100_000)
    live.calling = True
    desktop.open(loop.url + "/")
    desktop.wait_for("document.querySelector('[data-verdict=even]')")
    live.services[0]["endpoints"].append(endpoint(7))
    desktop.wait_for("document.querySelectorAll('.row').length === 3")
    desktop.wait_for("/calls of the last/.test(document.querySelector('.why').textContent)")
    assert desktop.run("return document.querySelector('[data-service]').dataset.verdict") == "even"


def test_hostile_names_are_only_text(desktop: Browser, loop: Loop, live: LiveView) -> None:
    evil = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    live.services.append(service("greeter", 2))
    live.services[0]["service"] = evil
    change(live.services[0]["endpoints"][0], pod=evil, zone=evil, last_error=evil)
    live.held["reason"] = live.held["build"]["version"] = evil
    live.held["source"] = {evil: evil}
    live.held["engine"]["protocol_errors"] = {evil: 1}
    desktop.open(loop.url + "/")
    desktop.wait_for("Number(document.body.dataset.updates) >= 2")
    assert desktop.run("return document.title") == "Evenstream"
    assert desktop.run("return document.querySelectorAll('main img, main script').length") == 0
    assert evil in desktop.run("return document.querySelector('.name').textContent")
    fits(desktop)


def test_an_address_that_left_and_came_back_has_two_rows(
    desktop: Browser, loop: Loop, live: LiveView
) -> None:
    live.services.append(service("greeter", 2))
    live.services[0]["endpoints"].append(endpoint(0, "draining"))
    live.services[0]["endpoints"][2]["open_streams"] = 9
    desktop.open(loop.url + "/")
    desktop.wait_for("Number(document.body.dataset.updates) >= 2")
    states = desktop.run("return [...document.querySelectorAll('.row')].map(r => r.dataset.state)")
    assert states == ["ready", "ready", "draining"]


def test_many_endpoints_are_folded(desktop: Browser, loop: Loop, live: LiveView) -> None:
    live.services.append(service("greeter", 1000))
    live.calling = True
    desktop.open(loop.url + "/")
    desktop.wait_for("document.querySelectorAll('.row').length === 50")
    desktop.run("document.querySelector('button').click()")
    desktop.wait_for("document.querySelectorAll('.row').length === 1000")


def test_a_sidecar_that_is_gone_is_said(driver: str, desktop: Browser, live: LiveView) -> None:
    loop = Loop(AdminServer(live, on_drain=None), live.each_turn)
    try:
        live.services.append(service("greeter", 2))
        desktop.open(loop.url + "/")
        desktop.wait_for("document.body.dataset.updates")
    finally:
        loop.stop()
    desktop.wait_for("!document.getElementById('lost').hidden")
    assert desktop.run("return document.getElementById('lost').textContent").startswith(
        "No answer from the sidecar since"
    )
    assert desktop.run("return document.querySelectorAll('.row').length") == 2, "the last figures stay"
