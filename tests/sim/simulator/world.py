"""One run: the scene of a plan, its acts, and what is looked at while they go on and when they are over."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import rawhttp2 as wire

from simulator import closing, convergence, judge, shrink
from simulator.apiserver import ApiServer, Controller, Member
from simulator.application import Application, ClientConnection
from simulator.backend import Pod
from simulator.calls import Arrival, Call, Outcome, Script
from simulator.clock import Clock, Violation
from simulator.http2 import Side
from simulator.network import Link, Network, Weather
from simulator.plan import Plan
from simulator.sidecar import Sidecar

SMALL_WINDOW = 4096
# From SIGTERM to the GOAWAY of each connection.
GOAWAY_WITHIN = 0.1
# Both sides' SETTINGS have arrived by then.
READY_FOR = 0.01
TERMINATING = Member(False, True, True)
NOT_READY = Member(False, False, None)
READY = Member(True, True, False)


class World:
    def __init__(self, plan: Plan, trace: bool = False) -> None:
        scene = plan.scene
        self.plan = plan
        self.seed = str(plan.seed)
        self.clock = Clock()
        self.network = Network(self.clock, self.seed)
        self.counts: Counter[str] = Counter()
        self.trace: list[str] | None = [] if trace else None
        self.random = random.Random(f"{plan.seed}/world")
        self.api = ApiServer(self.clock, scene.api_streams)
        self.controllers = {
            service: Controller(self.api, service, random.Random(f"{plan.seed}/{service}"))
            for service in scene.services
        }
        self.calls: dict[int, Call] = {}
        self.open_calls: dict[int, Call] = {}
        self.most_open = 0
        self.deaths: dict[tuple[str, str], list[tuple[float, str]]] = {}
        self.cuts: dict[str, list[float]] = {}  # sidecar or application: its connections were cut
        self.slack = 4 * scene.greatest_delay + 0.05
        self.resting = False  # the plan is over: no more faults
        self.pods: dict[str, Pod] = {}
        for number, manner in enumerate(scene.pods):
            host = f"10.0.0.{number + 1}"
            service = scene.services[number % len(scene.services)]
            self.pods[host] = Pod(self, host, service, manner)
        self.sidecars = {
            name: Sidecar(self, name, list(scene.services))
            for name in (f"sidecar-{at}" for at in range(scene.sidecars))
        }
        self.applications = [
            Application(
                self,
                f"app-{at}",
                f"sidecar-{at % scene.sidecars}/{scene.services[at // scene.sidecars % len(scene.services)]}",
                scene.services[at // scene.sidecars % len(scene.services)],
                habits,
            )
            for at, habits in enumerate(scene.applications)
        ]

    def run(self) -> None:
        """Raises Violation."""
        scene = self.plan.scene
        for controller in self.controllers.values():
            controller.create()
        for number, pod in enumerate(self.pods.values()):
            if number < scene.standing:
                pod.start()
                self.controllers[pod.service].set(pod.host, READY, 0.0)
        for sidecar in self.sidecars.values():
            sidecar.start()
        start = self.clock.now
        for act in self.plan.acts:
            self.clock.at(start + act.at, lambda act=act: self._do(act))  # type: ignore[misc]
        end = start + max([act.at for act in self.plan.acts], default=0.0)
        convergence.watch(self, end + 0.5)
        self.clock.run(end + 0.5)
        closing.close(self)

    def _do(self, act: Any) -> None:
        if act.what != "call":
            self.log("* %s", act)
        self.counts[act.what] += 1
        getattr(self, "do_" + act.what)(*act.how)

    # --- what happens ----------------------------------------------------------------------------

    def log(self, text: str, *values: Any) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.clock.now - 1000.0:10.5f}  {text % values}")

    def count(self, what: str) -> None:
        self.counts[what] += 1

    def violated(self, rule: str, detail: str) -> None:
        raise Violation(rule, detail)

    def arrived(self, call: Call, arrival: Arrival) -> None:
        before = judge.begun(call)
        if before is not None and not arrival.unprocessed:
            raise Violation("twice", f"{call} comes to {arrival.host} and may have been begun: {before}")
        if call.arrivals:
            self.count("streams sent again")
        call.arrivals.append(arrival)

    def ended(self, call: Call, outcome: Outcome) -> None:
        if call.outcome is not None:
            raise Violation("once", f"{call} ended with {call.outcome} and then with {outcome}")
        call.outcome = outcome
        call.ended_at = self.clock.now
        del self.open_calls[call.number]
        self.log("%s ended: %s", call, outcome)
        self.count(
            f"ended: {outcome.what} {outcome.number if outcome.what in ('status', 'reset') else ''}".strip()
        )
        judge.judge(self, call)

    def died(self, sidecar: str, host: str, why: str) -> None:
        """A backend's connection ended in a way that may cost calls."""
        self.deaths.setdefault((sidecar, host), []).append((self.clock.now, why))

    def cut_by_sidecar(self, name: str) -> None:
        self.cuts.setdefault(name, []).append(self.clock.now)

    def client_excused(self, call: Call) -> bool:
        """Whether something cut its client's connection of late."""
        recent = self.cuts.get(call.application, []) + self.cuts.get(self.sidecar_of(call), [])
        return any(self.clock.now - at <= judge.DEATHS_LAST + self.slack for at in recent)

    def sidecar_of(self, call: Call) -> str:
        return self._application(call).address.partition("/")[0]

    def _application(self, call: Call) -> Application:
        return self.applications[int(call.application.partition("-")[2])]

    def weather_to(self, host: str) -> Weather:
        return self.pods[host].manner.weather

    def restart_later(self, sidecar: Sidecar) -> None:
        """As the kubelet does with a container that has ended."""
        self.clock.after(0.5, lambda: None if sidecar.up else sidecar.start())

    # --- acts ------------------------------------------------------------------------------------

    def do_call(self, application: int, script: Script) -> Call:
        app = self.applications[application % len(self.applications)]
        call = Call(len(self.calls), script, app.name, app.service, self.clock.now)
        self.calls[call.number] = self.open_calls[call.number] = call
        self.most_open = max(self.most_open, len(self.open_calls))
        self.count(f"calls: {script.kind}")
        if self.trace is not None:
            self.log("%s makes %s: %s", app.name, call, shrink.source(script))
        app.call(call)
        return call

    def _pod(self, number: int, wanted: Any = None) -> Pod | None:
        """The pod meant: the number-th of those that are as wanted."""
        found = [pod for pod in self.pods.values() if wanted is None or wanted(pod)]
        return found[number % len(found)] if found else None

    def _running(self, number: int) -> Pod | None:
        return self._pod(number, lambda pod: pod.up and not pod.draining)

    def do_scale_up(self, number: int, lag: float) -> None:
        pod = self._pod(number, lambda pod: not pod.up)
        if pod is not None:
            pod.start()
            self.controllers[pod.service].set(pod.host, NOT_READY, 0.0)
            self.clock.after(lag, lambda: self._ready(pod))

    def _ready(self, pod: Pod) -> None:
        if pod.up and not pod.draining:
            self.controllers[pod.service].set(pod.host, READY, 0.0)

    def do_terminate(self, number: int, lag: float) -> None:
        """SIGTERM at once; the slices say so after `lag`, and forget the pod when it is gone."""
        pod = self._running(number)
        if pod is None:
            return
        controller = self.controllers[pod.service]
        life = pod.life
        controller.set(pod.host, TERMINATING, lag)

        def gone() -> None:
            if pod.life == life:
                pod.crash()
                controller.remove(pod.host, 0.0)

        pod.terminate()
        self.clock.after(8.5, gone)

    def do_deregister(self, number: int, lag: float) -> None:
        """As with a preStop sleep: the slices say it goes, and SIGTERM comes later."""
        pod = self._running(number)
        if pod is not None:
            self.controllers[pod.service].set(pod.host, TERMINATING, 0.0)
            life = pod.life

            def stop() -> None:
                if pod.life == life:
                    pod.terminate()
                    self.controllers[pod.service].remove(pod.host, 0.5)

            self.clock.after(lag, stop)

    def do_crash(self, number: int, lag: float, back: float) -> None:
        """SIGKILL; the slices say so after `lag`; the container comes back."""
        pod = self._running(number)
        if pod is not None:
            pod.crash()
            self.controllers[pod.service].set(pod.host, NOT_READY, lag)
            self.clock.after(back, lambda: self._return(pod))

    def _return(self, pod: Pod) -> None:
        if not pod.up:
            pod.start()
            self.controllers[pod.service].set(pod.host, READY, 0.05)

    def do_vanish(self, number: int, lag: float) -> None:
        """The node is gone, and the slices say so late."""
        pod = self._running(number)
        if pod is not None:
            pod.vanish()
            self.controllers[pod.service].set(pod.host, NOT_READY, lag)

    def do_freeze(self, number: int, seconds: float) -> None:
        pod = self._running(number)
        if pod is not None:
            pod.freeze(seconds)

    def do_age(self, number: int) -> None:
        pod = self._running(number)
        if pod is not None:
            pod.age()

    def do_refuse(self, number: int, seconds: float) -> None:
        """It answers each new stream with REFUSED_STREAM."""
        pod = self._running(number)
        if pod is not None:
            pod.refusing = self.clock.now + seconds
            self._unwell(pod, seconds)

    def do_reset_all(self, number: int, seconds: float) -> None:
        """It resets each new connection."""
        pod = self._running(number)
        if pod is not None:
            pod.resetting = self.clock.now + seconds
            self._unwell(pod, seconds)

    def do_silence(self, number: int, seconds: float) -> None:
        """It accepts new connections and says nothing on them."""
        pod = self._running(number)
        if pod is not None:
            pod.silent = self.clock.now + seconds
            self._unwell(pod, seconds)

    def _unwell(self, pod: Pod, seconds: float) -> None:
        pod.healthy_since = float("inf")
        life = pod.life

        def well() -> None:
            still = max(pod.refusing, pod.resetting, pod.silent, pod.frozen_until) > self.clock.now
            if pod.life == life and pod.up and not pod.draining and not still:
                pod.recovered()

        self.clock.after(seconds, well)

    def do_window(self, number: int, size: int) -> None:
        """A server changes SETTINGS_INITIAL_WINDOW_SIZE, as grpc-go's bandwidth estimator does."""
        pod = self._running(number)
        if pod is not None:
            self._change_window(list(pod.connections), size)

    def do_limit(self, number: int, most: int) -> None:
        """A server changes SETTINGS_MAX_CONCURRENT_STREAMS."""
        pod = self._running(number)
        if pod is not None:
            pod.limited = True
            changed = list(pod.connections)
            for connection in changed:
                connection.change(wire.MAX_CONCURRENT_STREAMS, most)
            if most == 0:
                self.clock.after(0.5, lambda: [c.change(wire.MAX_CONCURRENT_STREAMS, 100) for c in changed])

    def do_client_window(self, application: int, size: int) -> None:
        self._change_window(self.applications[application % len(self.applications)].connections, size)

    def _change_window(self, connections: Sequence[Side], size: int) -> None:
        """For a while, if it is so small that nothing would ever be over."""
        changed = list(connections)
        for connection in changed:
            connection.change(wire.INITIAL_WINDOW_SIZE, size)
        if size < SMALL_WINDOW:
            self.clock.after(0.5, lambda: self._change_window(changed, SMALL_WINDOW))

    def do_reset_link(self, number: int) -> None:
        """Something between a sidecar and a backend resets a connection."""
        links = self.network.between("sidecar")
        if links:
            link = links[number % len(links)]
            host = link.host.partition(":")[0]
            self.died(link.name.partition(">")[0], host, "reset on the way")
            self.pods[host].disturbed()
            link.reset()

    def do_hold_link(self, number: int, seconds: float) -> None:
        """Packets are lost: for a while nothing arrives, then all of it."""
        links = self.network.between("sidecar")
        if links:
            link = links[number % len(links)]
            self.pods[link.host.partition(":")[0]].disturbed()
            link.hold(self.clock.now + seconds)

    def do_hang_up(self, application: int, rude: bool) -> None:
        """An application closes its connections and goes on with new ones."""
        self.applications[application % len(self.applications)].close(rude)

    def do_flap(self, number: int, seconds: float) -> None:
        """Readiness fails for a while; the server works on."""
        pod = self._running(number)
        if pod is not None:
            self.controllers[pod.service].set(pod.host, NOT_READY, 0.0)
            self.clock.after(seconds, lambda: self._ready(pod))

    def do_linger(self, number: int) -> None:
        """It is said to terminate, and serves on for as long as it is needed."""
        pod = self._running(number)
        if pod is not None:
            self.controllers[pod.service].set(pod.host, TERMINATING, 0.0)

    def do_move(self, number: int, to: int, gap: float) -> None:
        pod = self._running(number)
        if pod is not None:
            self.controllers[pod.service].move(pod.host, to, 0.0, gap)

    def do_duplicate(self, number: int) -> None:
        pod = self._running(number)
        if pod is not None:
            self.controllers[pod.service].duplicate(pod.host, 0.0)

    def do_unsaid(self, number: int) -> None:
        """The slice leaves the conditions out: nil ready means true."""
        pod = self._running(number)
        if pod is not None:
            self.controllers[pod.service].set(pod.host, Member(None, None, None), 0.0)

    def do_delete_service(self, number: int, seconds: float) -> None:
        services = list(self.controllers)
        self.controllers[services[number % len(services)]].delete_service(seconds)

    def do_api_stop(self, seconds: float) -> None:
        self.api.stop(seconds)

    def do_api_black_hole(self, seconds: float) -> None:
        self.api.black_hole(seconds)

    def do_api_drop_watches(self) -> None:
        self.api.drop_watches()

    def do_api_expire(self) -> None:
        self.api.expire()

    def do_api_refuse(self, status: int, times: int) -> None:
        self.api.refuse(status, times)

    def do_api_goaway(self) -> None:
        self.api.goaway()

    def do_api_unauthorized(self, seconds: float) -> None:
        self.api.refuse_tokens(seconds)

    def do_dns_stop(self, seconds: float) -> None:
        self.api.stop_dns(seconds)

    def do_api_shuffle(self) -> None:
        self.api.shuffle(self.random)

    def do_pause_sidecar(self, number: int, seconds: float) -> None:
        sidecar = self._sidecar(number)
        if sidecar.up:
            sidecar.freeze(seconds)

    def do_drain_sidecar(self, number: int) -> None:
        sidecar = self._sidecar(number)
        if sidecar.up and not sidecar.engine.draining:
            ready = [c.end.link for c in self._clients(sidecar) if c.ready_at < self.clock.now - READY_FOR]
            self.must_be_told(sidecar, ready, GOAWAY_WITHIN)
        sidecar.drain()

    def _clients(self, sidecar: Sidecar) -> list[ClientConnection]:
        found = [app for app in self.applications if app.address.startswith(sidecar.name + "/")]
        return [connection for app in found for connection in app.connections if not connection.closed]

    def must_be_told(self, sidecar: Sidecar, links: list[Link], within: float) -> None:
        """Every client on one of these has to hear that the sidecar goes."""

        def look() -> None:
            for connection in self._clients(sidecar):
                if connection.end.link in links and not connection.leaving and sidecar.calm_since <= start:
                    self.violated("drain", f"{connection.name} was not told within {within} s")

        start = self.clock.now
        self.clock.after(within, look)

    def do_kill_sidecar(self, number: int) -> None:
        self._sidecar(number).kill()

    def _sidecar(self, number: int) -> Sidecar:
        return self.sidecars[f"sidecar-{number % len(self.sidecars)}"]
