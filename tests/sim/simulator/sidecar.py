"""A sidecar process: the real engine and the real discovery source, in a shell that does what `sidecar/net` and
`sidecar/app` do, with the simulator's sockets and clock."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sidecar.app import CHECK_INTERVAL, LINGER
from sidecar.balance.endpoints import ServicePort, Snapshot
from sidecar.discovery.kubernetes import ApiServer, KubernetesSource
from sidecar.discovery.ladder import Ladder
from sidecar.net.channel import READ_SIZE
from sidecar.net.dataplane import LOOK_INTERVAL, STALLED_AFTER_TIMEOUTS
from sidecar.splice.context import NEVER
from sidecar.splice.engine import DRAIN_STAY, Engine
from sidecar.splice.upstream import Upstream
from simulator import apiserver, audit
from simulator.clock import Violation
from simulator.names import ClusterDns, Volume
from simulator.network import End

if TYPE_CHECKING:
    from simulator.world import World

DRAIN_TIMEOUT = 28.0  # seconds, the default of contract/settings.py
MAX_ROUNDS = 1000
# A client that connects while the sidecar drains is told after its first calls.
STAY_WITHIN = DRAIN_STAY + 0.1


class Channel:
    """A socket and the engine's connection on it: net/dataplane.py's PeerChannel over net/channel.py's Channel."""

    def __init__(self, sidecar: Sidecar, end: End, peer: Any, connecting: bool) -> None:
        self.sidecar = sidecar
        self.end = end
        self.peer = peer
        self.connecting = connecting
        self.closed = False
        self.unsent = b""
        self.asked_at = -1.0  # of a backend: something was first sent since something came
        self.stalled = False
        end.owner = lambda _: sidecar.look_at(self)

    def ready(self, now: float) -> None:
        """The socket has something to tell."""
        end = self.end
        if self.closed:
            return
        if self.connecting:
            if end.error:
                self._drop(end.error, now)
            elif end.connected:
                self.connecting = False
                self.sidecar.engine.connected(self.peer, now)
            return
        if self.unsent and not end.wants_room:
            self._flush_unsent(now)
        if end.inbox:
            self.asked_at = -1.0
            if self.stalled:
                self._set_stalled(False, now)
            self.sidecar.received(self.peer, end.read(READ_SIZE), now)
        elif end.error:
            self._drop(end.error, now)
        elif end.ended:
            self._drop("closed the connection", now)
        if not self.closed and (end.inbox or end.error or end.ended):
            self.sidecar.look_at(self)

    def _flush_unsent(self, now: float) -> None:
        taken = self.end.write(self.unsent)
        self.unsent = self.unsent[taken:]
        if not self.unsent:
            self.sidecar.engine.socket_state(self.peer, 0, now)

    def _drop(self, why: str, now: float) -> None:
        self.closed = True
        self.end.abort()
        self.sidecar.forget(self.peer)
        self.sidecar.engine.lost(self.peer, why, now)

    def flush(self, now: float) -> None:
        """Write what the turn left in the connection's output."""
        peer = self.peer
        if self.connecting:
            if peer.gone:
                self._close(now)
            return
        pieces = peer.take_output()
        if pieces:
            if self.asked_at < 0.0 and isinstance(peer, Upstream):
                self.asked_at = now
                self.sidecar.look_later(now)
            before = len(self.unsent)
            data = b"".join(pieces)
            if before:
                self.unsent += data
            else:
                self.unsent = data[self.end.write(data) :]
            if self.unsent or before or peer.has_waiting():
                self.sidecar.engine.socket_state(peer, len(self.unsent), now)
        if peer.finished:
            self._close(now)

    def look(self, now: float) -> None:
        """Does anybody still acknowledge what we send?"""
        again = self.end.sent_again()
        if again < 0:
            self.asked_at = -1.0
        if self.stalled:
            if again <= 0:
                self._set_stalled(False, now)
        elif again >= STALLED_AFTER_TIMEOUTS:
            self._set_stalled(True, now)

    def _set_stalled(self, stalled: bool, now: float) -> None:
        self.stalled = stalled
        self.sidecar.world.count("connections found stalled" if stalled else "and well again")
        self.sidecar.engine.stalled(self.peer, stalled, now)

    def _close(self, now: float) -> None:
        peer = self.peer
        self.closed = True
        self.sidecar.forget(peer)
        if peer.gone or self.connecting:
            self.end.abort()
        else:
            if self.unsent:  # the kernel of a closing socket goes on sending; its buffers are no matter here
                self.end.link.carry(self.end, self.unsent)
                self.end._flying += len(self.unsent)
            self.end.close()
        self.sidecar.engine.lost(peer, "closed", now)


class Sidecar:
    def __init__(self, world: World, name: str, services: list[str]) -> None:
        self.world = world
        self.name = name
        self.services = services
        self.up = False
        self.life = 0
        self.calm_since = 0.0  # it has not stood still since
        self.since: dict[tuple[str, str], float] = {}  # (service, host): in the engine's snapshot since
        self.transports: list[apiserver.Transport] = []
        self.frozen_until = -1.0
        self.exit_when_drained = False
        self.volume = Volume()

    def start(self) -> None:
        world = self.world
        self.up = True
        self.life += 1
        self.calm_since = max(world.clock.now, self.frozen_until)
        self.since.clear()
        seed = random.Random(f"{world.seed}/{self.name}/{self.life}")
        self.engine = Engine(seed.getrandbits(64))
        self.channels: dict[Any, Channel] = {}
        self._ready: dict[Channel, None] = {}
        self._told: list[Callable[[], None]] = []
        self._watched: set[ServicePort] = set()
        self._turn_at = NEVER
        self._turns = 0
        self._drain_until = NEVER
        self._idle_since = 0.0
        self._look_at = NEVER
        live = KubernetesSource(
            ApiServer("10.96.0.1", 443, None, ""),
            dial=apiserver.dial_for(world.api, self),
            now=world.clock.now,
            random=seed,
            namespace="default",
        )
        dns = ClusterDns(world.api, self.wake_at)
        self.source = Ladder(live, dns, self.volume, now=world.clock.now, wall=self._wall)  # type: ignore[arg-type]
        self._check_at = world.clock.now + CHECK_INTERVAL
        for service in self.services:
            self.engine.service(port_of(service))
            world.network.listeners[self.address(service)] = self._accepts(service)
        self.wake_at(world.clock.now)

    def _wall(self) -> float:
        return 1.7e9 + self.world.clock.now

    def address(self, service: str) -> str:
        return f"{self.name}/{service}"

    def _accepts(self, service: str) -> Callable[[End], None]:
        def accept(end: End) -> None:
            peer = self.engine.accept(port_of(service), self.world.clock.now)
            self.channels[peer] = Channel(self, end, peer, False)
            self.wake_at(self.world.clock.now)
            if self.engine.draining:
                self.world.must_be_told(self, [end.link], STAY_WITHIN)

        return accept

    # --- turns -----------------------------------------------------------------------------------

    def look_at(self, channel: Channel) -> None:
        self._ready[channel] = None
        self.wake_at(self.world.clock.now)

    def from_source(self, act: Callable[[], None]) -> None:
        """Bytes for the discovery source, which shares the loop."""
        self._told.append(act)
        self.wake_at(self.world.clock.now)

    def wake_at(self, when: float) -> None:
        when = max(when, self.frozen_until)
        if when < self._turn_at:
            self._turn_at = when
            life = self.life
            self.world.clock.at(when, lambda: self._turn(life, when))

    def _turn(self, life: int, when: float) -> None:
        if not self.up or self.life != life or when != self._turn_at:
            return
        now = self.world.clock.now
        if self.frozen_until > now:
            self._turn_at = NEVER
            self.wake_at(self.frozen_until)
            return
        self._turn_at = NEVER
        self._turns += 1
        try:
            self._work(now)
        except Violation:
            raise
        except Exception as error:
            raise Violation("raises", f"{self.name}: {type(error).__name__}: {error}") from error
        if self.up:
            audit.turn(self.name, self.engine, self._turns)
            self.wake_at(self._deadline(now))

    def _work(self, now: float) -> None:
        _engine, source = self.engine, self.source
        ready, self._ready = self._ready, {}
        for channel in ready:
            channel.ready(now)
        told, self._told = self._told, []
        for act in told:
            act()
        if source.deadline() <= now:
            source.tick(now)
        if now >= self._check_at:
            self._tell_of_stuck(now)
        self._watch_new(now)
        for event in source.events():
            if isinstance(event, Snapshot):
                self._update(event, now)
        self._turn_end(now)

    def received(self, peer: Any, data: bytes, now: float) -> None:
        promise = audit.Promise(self.name, self.engine)
        self.engine.received(peer, data, now)
        promise.check()

    def _update(self, snapshot: Snapshot, now: float) -> None:
        service = snapshot.service.name
        hosts = {endpoint.host for endpoint in snapshot.endpoints}
        for key in [key for key in self.since if key[0] == service and key[1] not in hosts]:
            del self.since[key]
        for endpoint in snapshot.endpoints:
            self.since.setdefault((service, endpoint.host), now)
        self.world.log("%s: %s is at %s", self.name, service, ", ".join(sorted(hosts)) or "nowhere")
        self.world.count(f"snapshots: {snapshot.source}")
        self.engine.update(snapshot, now)

    def _tell_of_stuck(self, now: float) -> None:
        self._check_at = now + CHECK_INTERVAL
        for service in self.engine.services.values():
            if service.stuck():
                self.source.failing(service.key, now)

    def _watch_new(self, now: float) -> None:
        for key in self.engine.services:
            if key not in self._watched:
                self._watched.add(key)
                self.source.watch(key, now)

    def _turn_end(self, now: float) -> None:
        engine = self.engine
        if engine.deadline() <= now:
            engine.tick(now)
        if self._look_at <= now:
            self._look(now)
        for _ in range(MAX_ROUNDS):
            for upstream in engine.take_dials():
                self._dial(upstream, now)
            touched = engine.take_touched()
            if not touched:
                return
            for peer in touched:
                channel = self.channels.get(peer)
                if channel is not None:
                    channel.flush(now)
        raise Violation("rest", f"{self.name}: the engine still wants something after {MAX_ROUNDS} rounds")

    def look_later(self, now: float) -> None:
        if self._look_at == NEVER:
            self._look_at = now + LOOK_INTERVAL

    def _look(self, now: float) -> None:
        self._look_at = NEVER
        for channel in list(self.channels.values()):
            if channel.asked_at >= 0.0:
                if now - channel.asked_at >= LOOK_INTERVAL:
                    channel.look(now)
                self.look_later(now)

    def _dial(self, upstream: Upstream, now: float) -> None:
        if upstream.gone:
            return
        endpoint = upstream.backend.endpoint
        weather = self.world.weather_to(endpoint.host)
        end = self.world.network.dial(self.name, f"{endpoint.host}:{endpoint.port}", weather)
        self.channels[upstream] = Channel(self, end, upstream, True)
        self.world.count("dials")

    def forget(self, peer: Any) -> None:
        self.channels.pop(peer, None)

    def _deadline(self, now: float) -> float:
        deadline = min(self.engine.deadline(), self.source.deadline(), self._look_at)
        if self.engine.draining and self.exit_when_drained:
            deadline = min(deadline, self._drain_turn(now))
        return deadline

    # --- the end ---------------------------------------------------------------------------------

    def freeze(self, seconds: float) -> None:
        """The machine has no time for it."""
        self.frozen_until = max(self.frozen_until, self.world.clock.now + seconds)
        self.calm_since = self.frozen_until

    def drain(self) -> None:
        """SIGTERM."""
        if self.up and not self.engine.draining:
            now = self.world.clock.now
            self.engine.drain(now)
            self.exit_when_drained = True
            self._drain_until = now + DRAIN_TIMEOUT
            self.wake_at(now)

    def _drain_turn(self, now: float) -> float:
        busy = self.engine.open_streams() > 0 or bool(self.engine.downstreams)
        if busy:
            self._idle_since = 0.0
        elif self._idle_since == 0.0:
            self._idle_since = now
        if not busy and now >= self._idle_since + LINGER:
            self.world.log("%s has drained", self.name)
            self.source.close(now)
            self.stop()
            return NEVER
        if now >= self._drain_until:
            if not self.engine.open_streams():
                raise Violation("drain", f"{self.name}: idle connections kept it up for {DRAIN_TIMEOUT} s")
            self.world.cut_by_sidecar(self.name)
            self.source.close(now)
            self.stop()
            return NEVER
        return self._drain_until if busy else self._idle_since + LINGER

    def kill(self) -> None:
        """SIGKILL."""
        if self.up:
            self.world.cut_by_sidecar(self.name)
            self.stop()

    def stop(self) -> None:
        self.up = False
        self.since.clear()
        for service in self.services:
            self.world.network.listeners.pop(self.address(service), None)
        for channel in list(self.channels.values()):
            channel.closed = True
            channel.end.abort()
        self.channels.clear()
        for transport in self.transports:
            transport.close()
        self.transports.clear()
        self.exit_when_drained = False
        self.world.restart_later(self)


def port_of(service: str) -> ServicePort:
    return ServicePort("default", service, 50051)
