"""From a plan that fails to the shortest one found that fails in the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from simulator.application import Habits
from simulator.backend import Manner
from simulator.calls import Script
from simulator.plan import Act, Plan, Scene

# Runs to spend on one failure: some tens of milliseconds each.
MAX_RUNS = 600

Fails = Callable[[Plan], bool]


class _Shrinker:
    def __init__(self, plan: Plan, fails: Fails, runs: int) -> None:
        self.plan = plan
        self._fails = fails
        self._left = runs

    def try_plan(self, plan: Plan) -> bool:
        if self._left <= 0 or plan == self.plan:
            return False
        self._left -= 1
        if not self._fails(plan):
            return False
        self.plan = plan
        return True

    def fewer_acts(self) -> bool:
        """Leave out halves, quarters, ... single acts (delta debugging)."""
        smaller = False
        size = max(1, len(self.plan.acts) // 2)
        while True:
            at = 0
            while at < len(self.plan.acts):
                acts = self.plan.acts
                if self.try_plan(self.plan._replace(acts=acts[:at] + acts[at + size :])):
                    smaller = True
                else:
                    at += size
            if size == 1:
                return smaller
            size = max(1, size // 2)

    def simpler(self, candidates: Callable[[Plan], Iterator[Plan]]) -> bool:
        found = False
        again = True
        while again and self._left > 0:
            again = any(self.try_plan(plan) for plan in candidates(self.plan))
            found = found or again
        return found


def shrink(plan: Plan, fails: Fails, runs: int = MAX_RUNS) -> Plan:
    """`fails` says whether a plan fails as the first one did."""
    shrinker = _Shrinker(plan, fails, runs)
    while True:
        changed = shrinker.fewer_acts()
        changed = shrinker.simpler(_scenes) or changed
        changed = shrinker.simpler(_acts) or changed
        if not changed:
            return shrinker.plan


def _scenes(plan: Plan) -> Iterator[Plan]:
    scene = plan.scene
    simpler = [
        scene._replace(sidecars=1),
        scene._replace(services=scene.services[:1]),
        scene._replace(applications=scene.applications[:1]),
        scene._replace(api_streams=100),
        scene._replace(pods=scene.pods[:-1], standing=min(scene.standing, len(scene.pods) - 1)),
        scene._replace(pods=(Manner(),) * len(scene.pods)),
        scene._replace(applications=(Habits(),) * len(scene.applications)),
    ]
    simpler += [scene._replace(pods=each) for each in _each_simpler(scene.pods, Manner())]
    simpler += [scene._replace(applications=each) for each in _each_simpler(scene.applications, Habits())]
    for each in simpler:
        if each.pods and each.standing:
            yield plan._replace(scene=each)


def _each_simpler(values: tuple[Any, ...], plain: Any) -> Iterator[tuple[Any, ...]]:
    for at, value in enumerate(values):
        for field in plain._fields:
            if getattr(value, field) != getattr(plain, field):
                simpler = value._replace(**{field: getattr(plain, field)})
                yield (*values[:at], simpler, *values[at + 1 :])


def _acts(plan: Plan) -> Iterator[Plan]:
    for at, act in enumerate(plan.acts):
        for simpler in _simpler_act(act):
            yield plan._replace(acts=(*plan.acts[:at], simpler, *plan.acts[at + 1 :]))


def _simpler_act(act: Act) -> Iterator[Act]:
    if act.what != "call":
        if act.how and isinstance(act.how[0], int) and not isinstance(act.how[0], bool) and act.how[0] > 5:
            yield act._replace(how=(act.how[0] % 6, *act.how[1:]))
        return
    application, script = act.how
    if application:
        yield act._replace(how=(0, script))
    plain = Script()
    for field in Script._fields:
        if field not in ("kind", "request", "response") and getattr(script, field) != getattr(plain, field):
            yield act._replace(how=(application, script._replace(**{field: getattr(plain, field)})))
    if script.kind != "unary":
        yield act._replace(how=(application, plain))
    for field in ("request", "response"):
        sizes = getattr(script, field)
        for fewer in (sizes[:1], sizes[:-1], tuple(max(1, size // 2) for size in sizes)):
            both = {"request": fewer, "response": fewer} if script.kind == "bidi" else {field: fewer}
            if fewer and fewer != sizes:
                yield act._replace(how=(application, script._replace(**both)))


# --- as text ---------------------------------------------------------------------------------------

_TYPES: dict[str, type] = {t.__name__: t for t in (Plan, Scene, Act, Script, Manner, Habits)}


def source(value: Any) -> str:
    """Python that makes the plan, without what is as usual."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        usual = value._field_defaults
        parts = [
            f"{field}={source(getattr(value, field))}"
            for field in value._fields
            if field not in usual or usual[field] != getattr(value, field)
        ]
        if isinstance(value, Act):
            parts = [source(each) for each in value]
        return f"{type(value).__name__}({', '.join(parts)})"
    if isinstance(value, tuple):
        return "(" + "".join(source(each) + ", " for each in value).rstrip(" ") + ")"
    return repr(value)


def listing(plan: Plan) -> str:
    """The same, an act a line."""
    acts = "".join(f"\n        {source(act)}," for act in plan.acts)
    return f"Plan(\n    {plan.seed},\n    {source(plan.scene)},\n    ({acts}\n    ),\n)"


def parse(text: str) -> Plan:
    from simulator.network import Weather

    plan = eval(text, {"__builtins__": {}, "Weather": Weather, **_TYPES})
    assert isinstance(plan, Plan)
    return plan
