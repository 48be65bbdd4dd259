"""After the last act: everything heals, and then nothing may be missing and nothing may be left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecar.discovery.backoff import MAX_SECONDS
from simulator import audit, convergence, oracle
from simulator.calls import Call, Script
from simulator.clock import Violation
from simulator.sidecar import Sidecar

if TYPE_CHECKING:
    from simulator.world import World

# Every call has ended so long after the last act: the longest script, its stalls, and a vanished backend's 30 s.
CALLS_END_WITHIN = 60.0
# The longest wait of discovery, then time for another that follows from a fault seen on the way back.
CONVERGED_WITHIN = 2 * MAX_SECONDS + 15.0
PROBE = Script(kind="server", method="/sim.Probe/Hold", response=(10, 10), think=0.6)
# Connections are made when there is a client; the slowest server takes so long to say SETTINGS.
WARM = 3.0
# For connections to close and timers to run out: the longest is 30 s, for what is not complete.
SETTLE = 40.0


def close(world: World) -> None:
    world.resting = True
    world.log("* everything heals")
    _heal(world)
    _calls_end(world)
    world.clock.run(world.clock.now + CONVERGED_WITHIN)
    _converged(world)
    _probe(world)
    _pings_are_answered(world)
    _cancellations_arrived(world)
    _nothing_is_left(world)


def _heal(world: World) -> None:
    from simulator.world import READY

    world.api.heal()
    world.api.heal_dns()
    for pod in world.pods.values():
        pod.refusing = pod.resetting = pod.silent = -1.0
        controller = world.controllers[pod.service]
        if any(pod.host in each for each in controller.slices) and not pod.up:
            pod.start()
            controller.set(pod.host, READY, 0.0)
    for controller in world.controllers.values():
        controller.create_again()


def _calls_end(world: World) -> None:
    until = world.clock.now + CALLS_END_WITHIN
    while world.open_calls and world.clock.now < until:
        world.clock.run(world.clock.now + 0.5)
    for call in world.open_calls.values():
        raise Violation("ends", f"{call} has not ended: {call.script}; {'; '.join(map(str, call.arrivals))}")


def _converged(world: World) -> None:
    for sidecar in world.sidecars.values():
        if not sidecar.up:
            raise Violation("up", f"{sidecar.name} is not up again")
        audit.books(sidecar.name, sidecar.engine)
        convergence.check(world, sidecar)
    convergence.check_watches(world)
    for sidecar in world.sidecars.values():
        for service in sidecar.engine.services.values():
            if service.queued():
                raise Violation("queue", f"{sidecar.name}: {service.queued()} streams still wait")
            for (host, _), backend in service.backends.items():
                if service.downstreams and not backend.in_rotation and world.pods[host].up:
                    raise Violation("rotation", f"{sidecar.name}: {host} is well and {backend.state()}")


def _probe(world: World) -> None:
    """Streams that are held open at once are spread evenly, and none fails."""
    probes = len(world.calls)
    for at in range(len(world.applications)):
        _later(world, at, 0.0)
    world.clock.run(world.clock.now + WARM)
    for at, application in enumerate(world.applications):
        _calls_end(world)
        hosts = [h for h, _ in oracle.endpoints(world.api.server.objects, application.service, 50051)]
        if not hosts:
            continue
        made = [_later(world, at, 0.01 * n) for n in range(2 * len(hosts) + 1)]
        world.clock.run(world.clock.now + 0.6)
        if any(_is_narrow(world, host) for host in hosts):
            continue
        _even([call for found in made for call in found], sorted(hosts), application.name)
    _calls_end(world)
    for call in list(world.calls.values())[probes:]:
        if call.outcome is None or call.outcome.what != "status" or call.outcome.number != 0:
            hosts = oracle.endpoints(world.api.server.objects, call.service, 50051)
            if hosts and not any(_is_narrow(world, host) for host, _ in hosts):
                raise Violation("probe", f"{call} of {call.application} ended with {call.outcome}")


def _pings_are_answered(world: World) -> None:
    world.clock.run(world.clock.now + 1.0)
    for application in world.applications:
        for connection in application.connections:
            connection.check_pings()
    for pod in world.pods.values():
        for served in pod.connections:
            served.check_pings()


def _cancellations_arrived(world: World) -> None:
    """What a backend had begun it has ended, was told to end, or it lost its connection."""
    for call in world.calls.values():
        for arrival in call.arrivals:
            over = arrival.unprocessed or arrival.completed or arrival.cut
            if not over and arrival.reset_code < 0 and arrival.reset_seen < 0:
                raise Violation("cancel", f"{call} ended with {call.outcome}, and {arrival} goes on")


def _is_narrow(world: World, host: str) -> bool:
    return world.pods[host].is_scarce() or world.pods[host].is_slow_to_grow()


def _later(world: World, application: int, seconds: float) -> list[Call]:
    made: list[Call] = []
    world.clock.after(seconds, lambda: made.append(world.do_call(application, PROBE)))
    return made


def _even(calls: list[Call], hosts: list[str], application: str) -> None:
    counts = dict.fromkeys(hosts, 0)
    for call in calls:
        for arrival in call.arrivals:
            if not arrival.unprocessed:
                counts[arrival.host] = counts.get(arrival.host, 0) + 1
    if max(counts.values()) - min(counts.values()) > 1:
        raise Violation("promise", f"streams of {application} held open at once are spread {counts}")


def _nothing_is_left(world: World) -> None:
    for sidecar in world.sidecars.values():
        _idle(sidecar, [])
    for application in world.applications:
        application.close()
    world.clock.run(world.clock.now + 2.0)
    for sidecar in world.sidecars.values():
        engine = sidecar.engine
        _idle(
            sidecar,
            [
                ("clients' connections", len(engine.downstreams)),
                *[(f"clients of {s.name}", int(s.downstreams)) for s in engine.services.values()],
            ],
        )
    for controller in world.controllers.values():
        controller.clear()
    world.clock.run(world.clock.now + SETTLE)
    for sidecar in world.sidecars.values():
        _empty(world, sidecar)


def _idle(sidecar: Sidecar, more: list[tuple[str, int]]) -> None:
    """No stream, no octet, no count; nor `more`."""
    engine = sidecar.engine
    audit.books(sidecar.name, engine)
    left = [*more, ("streams", engine.open_streams()), ("octets", engine.held())]
    left += [(f"{what} of all connections", number) for what, number in engine.kept().items()]
    for downstream in engine.downstreams:
        left.append(("octets kept to be sent again", int(downstream.replay_from + downstream.blocks_from)))
    for service in engine.services.values():
        ended = sum(service.stats.by_status.values())
        left.append((f"streams waiting for {service.name}", service.queued()))
        left.append((f"streams of {service.name} not in its figures", int(service.stats.started) - ended))
        for backend in [*service.backends.values(), *service.retiring]:
            left += _of_backend(backend)
    for what, number in left:
        if number:
            raise Violation("left", f"{sidecar.name}: {number} {what}")


def _of_backend(backend: Any) -> list[tuple[str, int]]:
    host, stats = backend.endpoint.host, backend.stats
    ended = sum(stats.by_status.values()) + int(stats.refused)
    left = [
        (f"open streams of {host}", int(backend.open_streams)),
        (f"streams pending for {host}", len(backend.pending)),
        (f"streams of {host} not in its figures", int(stats.started) - ended),
    ]
    for upstream in backend.upstreams:
        held = int(upstream.held_for + upstream.held_back + upstream.lent_for)
        left += [(f"streams on a connection to {host}", len(upstream.streams)), (f"held for {host}", held)]
    return left


def _empty(world: World, sidecar: Sidecar) -> None:
    """No endpoint any more: no connection, no timer."""
    for service in sidecar.engine.services.values():
        if service.backends or service.retiring:
            raise Violation("left", f"{sidecar.name}: backends of {service.name} that are no more")
    if sidecar.channels:
        raise Violation("left", f"{sidecar.name}: {len(sidecar.channels)} connections")
    if sidecar.engine.deadline() != float("inf"):
        raise Violation(
            "left", f"{sidecar.name}: a timer for {sidecar.engine.deadline() - world.clock.now:.3f} s"
        )
