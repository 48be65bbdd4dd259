"""What happens in `hack/demo-cluster`, in order, and what is counted on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from demolib.panel import Panel, over, total
from demolib.processes import Report
from demolib.screen import Screen
from demolib.verdict import Outcome, Phase

from .backends import DEPLOYMENT, Backends, EndpointsWatch
from .kube import Namespace
from .load import Load

PLAIN_CLIENT: Final = "greeter-client-plain"
CLIENT: Final = "greeter-client"
# Divisible by the pods they are spread over: 12 over 3, 20 over 5 and over 2.
STREAMS: Final = 12
STREAMS_AFTER: Final = 20
RATE: Final = 100  # calls a second
LOOK_S: Final = 0.05  # between two looks at what the client says

START_LIMIT_S: Final = 120.0  # of new pods on a busy node
LEAVE_LIMIT_S: Final = 90.0  # 5 s of preStop and 10 s of grace, and what the kubelet needs
TRAFFIC_LIMIT_S: Final = 60.0  # what the client does takes seconds


class Pace(NamedTuple):
    """How fast the story goes: slow enough to watch, or quick for a test."""

    calls: int  # counted in each phase
    look: float  # seconds to look at something before the next thing happens


WATCH: Final = Pace(calls=360, look=2.0)
QUICK: Final = Pace(calls=150, look=0.3)


class ClusterStory:
    """One run, in a namespace where examples/greeter stands with three servers. `run` tells it."""

    def __init__(self, screen: Screen, namespace: Namespace, pace: Pace) -> None:
        self._screen = screen
        self._namespace = namespace
        self._backends = Backends(namespace)
        self._pace = pace
        self._panel = Panel(screen)
        self._slices: EndpointsWatch
        self._phases: list[Phase] = []
        self._failed_seen = 0  # of the running client, in phases that are over
        self._first_stream: dict[str, float] = {}
        self._new_streams: dict[str, int] = {}
        self._late_calls = 0

    def run(self) -> None:
        """Raises KubeError if the cluster did not do what the story needs; `outcome` is then of what was."""
        self._backends.settled(3)
        with EndpointsWatch(self._namespace) as self._slices:
            self._before()
            with self._start_client(CLIENT) as client:
                first = self._with_the_annotation(client)
                five = self._join(client, first)
                self._leave(client, five)
                report = client.finish()
        # What failed after the last phase was counted is a failure too.
        last = self._phases[-1]
        self._phases[-1] = last._replace(failed=last.failed + self._newly_failed(report))
        self._tell_errors(report)

    def outcome(self) -> Outcome:
        """All that was counted, so far."""
        return Outcome(self._phases, self._first_stream, self._new_streams, self._late_calls)

    def pods(self) -> list[str]:
        """All that were counted, those that came first first."""
        return list(dict.fromkeys(pod for phase in self._phases for pod in phase.calls))

    # One phase each

    def _before(self) -> None:
        pods = self._begin(
            "1 of 4  Before: the client without the annotation",
            f"One gRPC channel, {RATE} calls a second and {STREAMS} long streams to the Service {DEPLOYMENT}. A "
            "ClusterIP picks a pod per TCP connection, and a gRPC channel keeps one connection.",
            {},
        )
        with self._start_client(PLAIN_CLIENT) as client:
            calls = self._counted(client)
            streams = client.report.open
            self._look(client)
            report = client.finish()
        self._panel.client_ended(report.failed)
        self._tell_errors(report)
        self._screen.event(
            f"all {total(calls)} calls and {total(streams)} long streams went to {' and '.join(sorted(calls))}"
        )
        phase = Phase("before", over(pods, calls), over(pods, streams), report.failed, through_sidecar=False)
        self._phases.append(phase)

    def _with_the_annotation(self, client: Load) -> list[str]:
        pods = self._begin(
            "2 of 4  With the annotation: the same image, one channel",
            'evenstream.dev/inject: "enabled" on the pod is all the difference. The sidecar found the Service by '
            "its cluster IP and watches its EndpointSlices.",
            {},
        )
        self._wait(client, f"{STREAMS} long streams", lambda now: total(now.open) == STREAMS)
        calls = self._counted(client)
        self._look(client)
        self._note(client, "annotated", pods, calls)
        return pods

    def _join(self, client: Load, before: Sequence[str]) -> list[str]:
        self._begin(
            "3 of 4  kubectl scale --replicas=5",
            "A new pod gets its share of the calls at once. The next long stream goes to the pod with the fewest: "
            "to the new ones, until they hold as many as the others.",
            client.report.calls,
        )
        self._backends.scale(5)
        self._wait(client, "five ready pods", lambda _: self._ready() == 5, START_LIMIT_S)
        new = [pod for pod in self._slices.states() if pod not in before]
        self._wait(client, "a call on each", lambda now: all(pod in now.first_reply for pod in new))
        self._first_stream = {pod: self._first(client, pod) for pod in new}
        waits = ", ".join(f"{pod} after {wait * 1000:.0f} ms" for pod, wait in self._first_stream.items())
        self._screen.event(f"first stream since the EndpointSlice said that it is ready: {waits}")
        self._look(client)
        opened = client.report.opened
        client.send(f"streams {STREAMS_AFTER}")
        self._wait(client, "the new streams", lambda now: total(now.open) == STREAMS_AFTER)
        more = {pod: count - opened.get(pod, 0) for pod, count in client.report.opened.items()}
        self._new_streams = {pod: count for pod, count in more.items() if count}
        where = ", ".join(f"{count} to {pod}" for pod, count in self._new_streams.items())
        self._screen.event(f"{STREAMS_AFTER - STREAMS} more long streams: {where}")
        calls = self._counted(client)
        self._look(client)
        pods = [*before, *new]
        self._note(client, "3 -> 5", pods, calls)
        return pods

    def _leave(self, client: Load, before: Sequence[str]) -> None:
        self._begin(
            "4 of 4  kubectl scale --replicas=2",
            "Pods that leave get nothing new and keep what they have until they end it: here after 5 s of preStop "
            "and 10 s of grace. Their long streams then open again on the pods that stay.",
            client.report.calls,
        )
        ended = client.report.ended_by_server
        self._backends.scale(2)
        self._wait(client, "three pods are leaving", lambda _: self._ready() == 2, LEAVE_LIMIT_S)
        stay = [pod for pod, state in self._slices.states().items() if state == "ready"]
        leave = [pod for pod in before if pod not in stay]
        self._screen.event(f"leaving, in the EndpointSlice: {', '.join(leave)}")
        self._look(client)  # what was under way is finished by now
        late = client.report.calls
        self._wait(
            client,
            "the streams of the pods that leave are open again on those that stay",
            lambda now: total(now.open) == STREAMS_AFTER and set(now.open) == set(stay),
            LEAVE_LIMIT_S,
        )
        moved = client.report.ended_by_server - ended
        self._screen.event(f"{moved} long streams were ended by their servers with OK, and are open again")
        calls = self._counted(client)
        self._look(client)
        now = client.report.calls
        self._late_calls = sum(now.get(pod, 0) - late.get(pod, 0) for pod in leave)
        self._note(client, "5 -> 2", stay, calls)

    # What is used in several

    def _begin(self, title: str, text: str, base: Mapping[str, int]) -> list[str]:
        """A new phase on the panel; the pods that are there."""
        pods = list(self._slices.states())
        self._panel.states = dict.fromkeys(pods, "")
        self._panel.phase(title, text, base)
        return pods

    def _start_client(self, deployment: str) -> Load:
        (pod,) = self._namespace.pods(deployment)
        options = ("--rate", str(RATE), "--count", str(STREAMS))
        return Load(self._namespace, pod["metadata"]["name"], "mix", *options)

    def _ready(self) -> int:
        return list(self._slices.states().values()).count("ready")

    def _first(self, client: Load, pod: str) -> float:
        """Seconds from Ready to the first reply. Two programs look, so that a reply can seem to come first."""
        return max(client.first_reply(pod) - self._slices.first_ready(pod), 0.0)

    def _draw(self, report: Report) -> None:
        now = self._slices.states()
        shown = self._panel.states
        for pod in {**shown, **now}:
            state = now.get(pod)
            if state is None:
                shown[pod] = "stopped"
            elif state == "terminating":
                shown[pod] = "leaving"
            elif state == "not ready":
                shown[pod] = "starting"
            elif shown.get(pod, "starting") == "starting":
                shown[pod] = "new"
        self._panel.show(report)

    def _wait(
        self, client: Load, what: str, condition: Callable[[Report], bool], seconds: float = TRAFFIC_LIMIT_S
    ) -> None:
        def look(report: Report) -> bool:
            self._draw(report)
            return condition(report)

        client.until(what, look, seconds)

    def _look(self, client: Load) -> None:
        until = time.monotonic() + self._pace.look
        self._wait(client, "a look", lambda _: time.monotonic() >= until)

    def _counted(self, client: Load) -> dict[str, int]:
        """The calls per pod of the next so many."""
        before = client.report.calls
        wanted = total(before) + self._pace.calls
        self._wait(client, f"{self._pace.calls} calls", lambda now: total(now.calls) >= wanted)
        after = client.report.calls
        counts = {pod: count - before.get(pod, 0) for pod, count in after.items()}
        return {pod: count for pod, count in counts.items() if count}

    def _note(self, client: Load, name: str, pods: Sequence[str], calls: Mapping[str, int]) -> None:
        """Keep what a phase through the sidecar came to."""
        failed = self._newly_failed(client.report)
        self._phases.append(Phase(name, over(pods, calls), over(pods, client.report.open), failed))

    def _newly_failed(self, report: Report) -> int:
        failed, self._failed_seen = report.failed - self._failed_seen, report.failed
        return failed

    def _tell_errors(self, report: Report) -> None:
        for text, count in report.errors.items():
            self._screen.event(f"failed {count} times: {text}")
