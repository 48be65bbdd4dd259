"""Whether a call may have ended as it did.

A call fails only if its own backend died, reset or refused under it, its deadline passed, its client gave it up or
lost its own connection, or no endpoint existed for the whole time a call may wait.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

import rawhttp2 as wire

from sidecar.splice.backend import BACKOFF_JITTER, BACKOFF_MOST, CONNECT_TIMEOUT
from sidecar.splice.replay import REPLAY_LIMIT
from sidecar.splice.service import MAX_REFUSALS, QUEUE_TIMEOUT
from simulator import calls
from simulator.calls import Arrival, Call, Outcome

if TYPE_CHECKING:
    from simulator.world import World

DEADLINE_EXCEEDED = 4
UNAVAILABLE = 14
# An endpoint may be out of rotation for so long after whatever was wrong with it: a dial that hung, then a wait.
RECOVERY = CONNECT_TIMEOUT + BACKOFF_MOST * (1.0 + BACKOFF_JITTER)
# How long after the death of a connection calls on it may still end: for the way back, and for a client that reads
# nothing for a while. Where nobody said that the backend died, it takes so long to find out.
DEATHS_LAST = 7.0
VANISHED_LAST = 30.0
# From the first octet that such a backend does not acknowledge to the last new call it is given.
AVOIDED_WITHIN = 3.0
# grpc-timeout is told in whole milliseconds.
ROUNDING = 0.002
_BACKEND = re.compile(r"endpoint (\S+):50051 of ")


def judge(world: World, call: Call) -> None:
    """Raises Violation."""
    outcome = call.outcome
    assert outcome is not None
    if outcome.what in ("cancelled", "deadline"):
        return
    if outcome.what == "lost":
        if not world.client_excused(call):
            _refuse(world, call, "its connection to the sidecar was lost and nothing did it")
    elif outcome.what == "reset":
        _reset(world, call, outcome.number)
    elif "evenstream:" in (message := unquote(outcome.message)) or _is_bare_answer(call, outcome):
        _answered_by_sidecar(world, call, outcome.number, message)
    else:
        _answered(world, call, outcome)


def _refuse(world: World, call: Call, why: str) -> None:
    told = "; ".join(str(arrival) for arrival in call.arrivals) or "no backend saw it"
    world.violated("call", f"{call} of {call.application} ended with {call.outcome}: {why} ({told})")


def _is_bare_answer(call: Call, outcome: Outcome) -> bool:
    """Plain HTTP from the sidecar, to a client without credit for the message."""
    return not call.script.grpc and outcome.number in (503, 504) and not outcome.message


def begun(call: Call) -> Arrival | None:
    """Where it may have been begun: one arrival at most, or `World.arrived` would have complained."""
    return next((arrival for arrival in call.arrivals if not arrival.unprocessed), None)


def _answered(world: World, call: Call, outcome: Outcome) -> None:
    arrival = begun(call)
    if arrival is None or not arrival.completed:
        _refuse(world, call, "no backend had ended it")
        return
    if arrival.status != outcome.number:
        _refuse(world, call, f"the backend said {arrival.status}")
    if call.response_received != arrival.response_sent:
        _refuse(world, call, f"{call.response_received} of {arrival.response_sent} octets came")
    if call.script.manner == calls.WHOLE and call.response_received != len(call.response):
        _refuse(world, call, f"{call.response_received} of {len(call.response)} octets came")


def _reset(world: World, call: Call, code: int) -> None:
    arrival = begun(call)
    if arrival is not None and arrival.reset_code == code:
        return
    if code == wire.REFUSED_STREAM:
        refused = sum(1 for each in call.arrivals if each.unprocessed)
        outgrown = len(call.request) > REPLAY_LIMIT
        if arrival is None and (refused > MAX_REFUSALS or (refused and outgrown)):
            return
        _refuse(world, call, f"{refused} backends had refused it")
    elif arrival is not None and not call.script.grpc and code == wire.INTERNAL_ERROR:
        _own_backend_died(world, call, arrival.host)
    else:
        _refuse(world, call, "no backend had reset it so")


def _answered_by_sidecar(world: World, call: Call, status: int, message: str) -> None:
    if not call.script.grpc:
        status = {504: DEADLINE_EXCEEDED, 503: UNAVAILABLE}.get(status, status)
    if "broke HTTP/2" in message:
        _refuse(world, call, "an honest backend was accused")
    arrival = begun(call)
    if not message and arrival is not None:
        _own_backend_died(world, call, arrival.host)
        return
    if not message and any(name == world.sidecar_of(call) for name, _ in world.deaths):
        return  # it may have been on its way to one that died
    if message and call.service not in message:
        _refuse(world, call, "the message does not name the Service")
    found = _BACKEND.search(message)
    if found and status == UNAVAILABLE and "none of" not in message:
        _own_backend_died(world, call, found[1])
        return
    if arrival is not None:
        _refuse(world, call, "a backend had it")
    now = world.clock.now
    if status == DEADLINE_EXCEEDED:
        if call.script.deadline < 0.0 or now < call.made_at + call.script.deadline - ROUNDING:
            _refuse(world, call, "its deadline had not passed")
    elif status == UNAVAILABLE:
        _no_endpoint(world, call)
    else:
        _refuse(world, call, "the sidecar never answers so")


def _own_backend_died(world: World, call: Call, host: str) -> None:
    arrival = begun(call)
    if arrival is not None and arrival.host != host:
        _refuse(world, call, f"it was at {arrival.host}")
    if arrival is not None and arrival.completed and call.script.manner != calls.WHOLE:
        return
    now = world.clock.now
    # The latest first: a pod that came back at the address has its own death.
    for at, why in reversed(world.deaths.get((world.sidecar_of(call), host), [])):
        lasts = VANISHED_LAST if why == "vanished" else DEATHS_LAST
        if now - at <= lasts + world.slack:
            if why == "vanished":
                _not_avoided(world, call, host, at)
            return
    _refuse(world, call, f"{host} had not died")


def _not_avoided(world: World, call: Call, host: str, vanished_at: float) -> None:
    """It was given to a backend that had vanished, although that had shown on an earlier one."""
    sidecar = world.sidecar_of(call)
    shown_at = world.network.first_lost(sidecar, f"{host}:50051", vanished_at)
    calm_since = max(shown_at, world.sidecars[sidecar].calm_since)
    if call.attempted_at > calm_since + AVOIDED_WITHIN + world.slack:
        _refuse(world, call, f"{host} had not acknowledged anything since {shown_at:.3f}")


def _no_endpoint(world: World, call: Call) -> None:
    """Nothing could be had for QUEUE_TIMEOUT: no endpoint that was known and well all the time."""
    now = world.clock.now
    waited = now - call.attempted_at
    if waited < QUEUE_TIMEOUT:
        _refuse(world, call, f"it had waited for {waited:.3f} s only")
    sidecar = world.sidecars[world.sidecar_of(call)]
    since = now - QUEUE_TIMEOUT - world.slack
    if sidecar.calm_since > since:
        return
    for (service, host), known in sidecar.since.items():
        if service != call.service or known > since:
            continue
        pod = world.pods[host]
        if pod.healthy_since <= since - RECOVERY and not pod.is_scarce():
            _refuse(
                world,
                call,
                f"{host} was well since {pod.healthy_since:.3f} and known since {known:.3f}",
            )
