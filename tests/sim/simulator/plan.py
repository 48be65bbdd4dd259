"""From a seed to a plan: the scene, and what happens in it when. A plan is data, so it can be cut down."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from simulator import calls
from simulator.application import Habits
from simulator.backend import Manner
from simulator.calls import Script
from simulator.network import Weather

SECONDS = 6.0  # in which acts happen
METHODS = ("/greeter.Greeter/SayHello", "/greeter.Greeter/Chat", "/shop.Orders/List")


class Act(NamedTuple):
    at: float  # seconds from the start
    what: str  # World.do_...
    how: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.what}({', '.join(map(str, self.how))})"


class Scene(NamedTuple):
    services: tuple[str, ...] = ("greeter",)
    sidecars: int = 1
    applications: tuple[Habits, ...] = (Habits(),)
    pods: tuple[Manner, ...] = (Manner(), Manner())
    standing: int = 2  # pods that run from the start
    api_streams: int | None = 100
    greatest_delay: float = 0.001  # of any link, one way


class Plan(NamedTuple):
    seed: int
    scene: Scene
    acts: tuple[Act, ...]


def make(seed: int) -> Plan:
    rng = random.Random(f"plan {seed}")
    scene = _scene(rng)
    acts = [*_calls(rng, scene), *_faults(rng)]
    acts.sort(key=lambda act: act.at)
    return Plan(seed, scene, tuple(acts))


def _scene(rng: random.Random) -> Scene:
    rough = rng.random() < 0.5
    count = rng.choice([1, 2, 2, 3, 3, 4, 6])
    spare = rng.choice([0, 0, 1, 2])
    weathers = [_weather(rng, rough) for _ in range(count + spare)]
    services = ("greeter", "orders") if count + spare >= 4 and rng.random() < 0.3 else ("greeter",)
    sidecars = rng.choice([1, 1, 1, 2])
    return Scene(
        services=services,
        sidecars=sidecars,
        applications=tuple(_habits(rng) for _ in range(rng.choice([1, 2, 3]))),
        pods=tuple(_manner(rng, weather) for weather in weathers),
        standing=max(count, len(services)),
        api_streams=rng.choice([100, 100, 250, 5]),
        greatest_delay=max(w.latency + w.jitter for w in weathers),
    )


def _weather(rng: random.Random, rough: bool) -> Weather:
    if not rough:
        return Weather()
    return Weather(
        latency=rng.choice([0.0002, 0.001, 0.02]),
        jitter=rng.choice([0.0, 0.0, 0.002, 0.02]),
        pieces=rng.choice(["whole", "halves", "crumbs"]),
        capacity=rng.choice([4096, 65_536, 262_144]),
    )


def _habits(rng: random.Random) -> Habits:
    return Habits(
        eager=rng.random() < 0.4,
        encoder=rng.choice(["literal", "obedient", "obedient", "stateful"]),
        initial_window=rng.choice([65_535, 65_535, 65_535, 1_048_576, 16_384, 4096]),
        window=rng.choice([65_535, 65_535, 1_048_576]),
        pads=rng.random() < 0.1,
        weather=Weather(0.00005, 0.0, rng.choice(["whole", "whole", "halves", "crumbs"])),
    )


def _manner(rng: random.Random, weather: Weather) -> Manner:
    return Manner(
        initial_window=rng.choice([65_535, 65_535, 65_535, 1_048_576, 16_384, 4096]),
        window=rng.choice([65_535, 65_535, 1_048_576]),
        max_streams=rng.choice([None, None, 100, 2, 1]),
        settings_delay=rng.choice([0.0, 0.0, 0.0, 0.0, 0.1, 0.6, 2.0]),
        leaving=rng.choice(["graceful", "graceful", "one-step", "rude"]),
        encoder=rng.choice(["stateless", "stateless", "plain", "table"]),
        pads=rng.random() < 0.1,
        weather=weather,
    )


# --- calls -----------------------------------------------------------------------------------------


def _calls(rng: random.Random, scene: Scene) -> list[Act]:
    made = []
    if rng.random() < 0.04:
        at = round(rng.uniform(0.0, SECONDS), 4)
        storm = Script(think=rng.choice([0.0, 0.02, 0.5]))
        many = rng.random() < 0.5  # methods: more than are counted on their own
        for n in range(150):
            script = storm._replace(method=f"/many.Methods/M{n}") if many else storm
            made.append(Act(at, "call", (n % len(scene.applications), script)))
    for _ in range(rng.choice([2, 6, 12, 25, 40])):
        at = rng.choice([0.0, 1.0, rng.uniform(0.0, SECONDS), rng.uniform(0.0, SECONDS)])
        application = rng.randrange(len(scene.applications))
        made.append(Act(round(at + rng.random() * 0.01, 4), "call", (application, _script(rng))))
    return made


def _sizes(rng: random.Random, most: int) -> tuple[int, ...]:
    size = rng.choice([1, 64, 64, 1000, 9000, 30_000, 70_000])
    return tuple(rng.randint(1, size) for _ in range(rng.randint(1, most)))


def _script(rng: random.Random) -> Script:
    kind = rng.choice(["unary", "unary", "unary", "client", "server", "bidi"])
    request = _sizes(rng, 1 if kind in ("unary", "server") else 5)
    response = _sizes(rng, 1 if kind in ("unary", "client") else 5)
    if kind == "bidi":
        response = tuple(rng.randint(1, 2000) for _ in request)
    script = Script(
        kind=kind,
        method=rng.choice(METHODS),
        request=request,
        response=response,
        gap=rng.choice([0.0, 0.0, 0.01, 0.3]),
        think=rng.choice([0.0, 0.001, 0.02, 0.5]),
        stubborn=rng.random() < 0.3,
        grpc=rng.random() < 0.9,
        metadata=rng.choice([0] * 40 + [300, 300, 300, 20_000]),
    )
    if not script.grpc and rng.random() < 0.5:
        return script._replace(sized=True)
    if not script.grpc and rng.random() < 0.3:
        return script._replace(kind="server", request=())
    odd = rng.random()
    if odd < 0.06:
        return script._replace(manner=calls.EARLY)
    if odd < 0.12:
        return script._replace(manner=calls.EARLY_RESET)
    if odd < 0.17 and script.grpc:
        return script._replace(manner=calls.TRAILERS_ONLY, status=rng.choice([5, 7, 14, 16]))
    if odd < 0.22:
        return script._replace(manner=rng.choice([calls.RESET, calls.RESET_FIRST]), code=rng.choice([2, 8]))
    if odd < 0.30:
        return script._replace(refusals=rng.choice([1, 1, 2, 5]))
    if odd < 0.40:
        return script._replace(cancel=round(rng.choice([0.0, 0.001, 0.01, rng.uniform(0.0, 1.0)]), 4))
    if odd < 0.50:
        return script._replace(deadline=round(rng.choice([0.005, 0.2, 1.0, 5.0, 30.0]), 4))
    if odd < 0.56:
        return script._replace(client_stall=rng.choice([0.1, 1.0, 4.0]))
    if odd < 0.62:
        return script._replace(server_stall=rng.choice([0.1, 1.0, 4.0]))
    if odd < 0.66:
        return script._replace(hints=rng.choice([1, 2]))
    if odd < 0.72 and script.grpc:
        return script._replace(status=rng.choice([1, 5, 13, 14]))
    return script


# --- faults ----------------------------------------------------------------------------------------


def _faults(rng: random.Random) -> list[Act]:
    """None, a few, or many; of one family or of all."""
    names = sorted(_HOW)
    chosen = rng.choice([names, names, rng.sample(names, 4), rng.sample(names, 2)])
    made = []
    if rng.random() < 0.08:
        made.append(Act(0.0, "api_stop", (rng.choice([0.4, 3.0, 20.0]),)))
    for _ in range(rng.choice([0, 1, 3, 6, 12])):
        what = rng.choice(chosen)
        at = round(
            rng.choice([0.0, 1.0, 1.0, 0.0]) + rng.uniform(0.0, SECONDS - 1.0) * rng.choice([0.01, 1.0]), 4
        )
        made.append(Act(at, what, _HOW[what](rng)))
    return made


def _n(rng: random.Random) -> int:
    return rng.randrange(60)


def _soon(rng: random.Random) -> float:
    return rng.choice([0.0, 0.05, 0.5, 2.0])


_HOW: dict[str, Any] = {
    "scale_up": lambda r: (_n(r), _soon(r)),
    "terminate": lambda r: (_n(r), _soon(r)),
    "deregister": lambda r: (_n(r), _soon(r)),
    "crash": lambda r: (_n(r), _soon(r), r.choice([0.2, 1.0, 3.0])),
    "vanish": lambda r: (_n(r), r.choice([0.5, 3.0, 10.0])),
    "freeze": lambda r: (_n(r), r.choice([0.1, 1.0, 4.0])),
    "age": lambda r: (_n(r),),
    "refuse": lambda r: (_n(r), r.choice([0.05, 0.5, 2.0])),
    "reset_all": lambda r: (_n(r), r.choice([0.5, 2.0])),
    "silence": lambda r: (_n(r), r.choice([0.5, 4.0])),
    "window": lambda r: (_n(r), r.choice([1, 1000, 65_535, 131_072, 1_048_576])),
    "limit": lambda r: (_n(r), r.choice([0, 1, 2, 5, 100])),
    "client_window": lambda r: (_n(r), r.choice([1, 1000, 65_535, 131_072, 1_048_576])),
    "reset_link": lambda r: (_n(r),),
    "hold_link": lambda r: (_n(r), r.choice([0.05, 0.3, 1.0, 4.0])),
    "hang_up": lambda r: (_n(r), r.random() < 0.5),
    "flap": lambda r: (_n(r), r.choice([0.05, 0.5, 2.0])),
    "linger": lambda r: (_n(r),),
    "move": lambda r: (_n(r), _n(r), r.choice([-0.3, 0.0, 0.3])),
    "duplicate": lambda r: (_n(r),),
    "unsaid": lambda r: (_n(r),),
    "delete_service": lambda r: (_n(r), r.choice([0.1, 3.0])),
    "api_stop": lambda r: (r.choice([0.1, 3.0, 20.0]),),
    "api_black_hole": lambda r: (r.choice([1.0, 20.0]),),
    "api_drop_watches": lambda r: (),
    "api_expire": lambda r: (),
    "api_refuse": lambda r: (r.choice([403, 410, 429, 500, 503, 200]), r.choice([1, 3])),
    "api_goaway": lambda r: (),
    "api_unauthorized": lambda r: (r.choice([0.1, 5.0]),),
    "dns_stop": lambda r: (r.choice([1.0, 10.0]),),
    "api_shuffle": lambda r: (),
    "pause_sidecar": lambda r: (_n(r), r.choice([0.01, 0.2, 1.0])),
    "drain_sidecar": lambda r: (_n(r),),
    "kill_sidecar": lambda r: (_n(r),),
}
