"""The mixed load of a soak: the cases of tests/interop/python/client.py and some more, from several threads with a
channel each, at a rate that is kept.

It prints what was seen so far as one JSON object a line, and ends when its standard input says `quit` or ends. Run
with the folder of the generated `interop_pb2` modules and that of the interop client on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any, Final

import client as interop
import grpc
import interop_pb2 as pb
import interop_pb2_grpc as pb_grpc

REPORT_SECONDS: Final = 0.5
# One case in so many is the last on its connection.
CASES_ON_A_CHANNEL: Final = 40
# A first reply over a new channel on a busy machine; far more than any of these calls takes.
PATIENCE: Final = 60.0
# 4 MB in all: more than any window that gRPC's estimate of the bandwidth opens within the time it takes.
SLOW_READS, SLOW_SIZE, SLOW_PAUSE = 32, 128 << 10, 0.05
LARGE: Final = 2 << 20  # half of what a gRPC server takes unless told otherwise


def unlike_any_other(stub: Any) -> None:
    """What tracing and deadlines do to header blocks: no two are the same."""
    metadata = [
        ("x-request-id", str(uuid.uuid4())),
        ("traceparent", f"00-{uuid.uuid4().hex}-{uuid.uuid4().hex[:16]}-01"),
    ]
    stub.EmptyCall(pb.Empty(), metadata=metadata, timeout=PATIENCE)


def large_both_ways(stub: Any) -> None:
    answer = stub.UnaryCall(
        pb.SimpleRequest(response_size=LARGE, payload=interop.payload(LARGE)), timeout=PATIENCE
    )
    interop.want_equal("size", len(answer.payload.body), LARGE)


def slow_reader(stub: Any) -> None:
    """Credit runs out, and comes back a little at a time."""
    parameters = [pb.ResponseParameters(size=SLOW_SIZE)] * SLOW_READS
    request = pb.StreamingOutputCallRequest(response_parameters=parameters)
    for seen, answer in enumerate(stub.StreamingOutputCall(request, timeout=PATIENCE), 1):
        interop.want_equal("size", len(answer.payload.body), SLOW_SIZE)
        if seen < SLOW_READS:
            time.sleep(SLOW_PAUSE)
    interop.want_equal("answers", seen, SLOW_READS)


def half_closed(stub: Any) -> None:
    """The client has said all it has to say long before the server has."""
    parameters = [pb.ResponseParameters(size=size, interval_us=100_000) for size in range(1, 6)]
    request = pb.StreamingOutputCallRequest(response_parameters=parameters)
    answers = stub.FullDuplexCall(iter([request]), timeout=PATIENCE)
    interop.want_sizes(answers, range(1, 6))


def deadline_under_way(stub: Any) -> None:
    parameters = [pb.ResponseParameters(size=1000, interval_us=50_000)] * 20
    request = pb.StreamingOutputCallRequest(response_parameters=parameters)
    try:
        for _ in stub.StreamingOutputCall(request, timeout=0.2):
            pass
    except grpc.RpcError as error:
        interop.want_status(error, grpc.StatusCode.DEADLINE_EXCEEDED)
    else:
        raise interop.CaseFailedError("a second's answers came within the deadline of 0.2 s")


OWN: Final = (unlike_any_other, large_both_ways, slow_reader, half_closed, deadline_under_way)
# How often, against each other: short calls are what applications make most of.
WEIGHTS: Final = {"empty_unary": 6, "unlike_any_other": 8, "large_both_ways": 1, "slow_reader": 1}
USUAL_WEIGHT: Final = 2
# A soak is of these cases itself.
LEFT_OUT: Final = {"rpc_soak", "concurrent_ping_pong", "client_compressed_unary"}
CASES: Final[dict[str, Callable[[Any], None]]] = {
    **{name: case for name, case in interop.CASES.items() if name not in LEFT_OUT},
    **{case.__name__: case for case in OWN},
}


class Tally:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: defaultdict[str, list[float]] = defaultdict(list)
        self._failed: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()

    def add(self, case: str, seconds: float, error: str) -> None:
        with self._lock:
            self._seconds[case].append(seconds)
            if error:
                self._failed[case] += 1
                self._errors[f"{case}: {error}"] += 1

    def as_json(self, *, final: bool) -> str:
        with self._lock:
            cases = {
                case: {
                    "calls": len(seconds),
                    "failed": self._failed[case],
                    "median": statistics.median(seconds) if final else 0.0,
                    "slowest": max(seconds) if final else 0.0,
                }
                for case, seconds in sorted(self._seconds.items())
            }
            return json.dumps({"final": final, "cases": cases, "errors": dict(self._errors)})


def run(case: str, channel: grpc.Channel, tally: Tally) -> None:
    began = time.monotonic()
    error = ""
    try:
        CASES[case](pb_grpc.TestServiceStub(channel))
    except grpc.RpcError as failed:
        error = f"{failed.code().name}: {failed.details()}"
    except Exception as failed:
        error = f"{type(failed).__name__}: {failed}"
    tally.add(case, time.monotonic() - began, error)


def connect(target: str) -> grpc.Channel:
    # grpcio would share one connection between all channels to the same target.
    return grpc.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)])


def work(target: str, rate: float, rng: random.Random, tally: Tally, stop: threading.Event) -> None:
    """One thread: a case at a time, `rate` a second at most."""
    names = list(CASES)
    weights = [WEIGHTS.get(name, USUAL_WEIGHT) for name in names]
    channel = connect(target)
    due = time.monotonic() + rng.random() / rate
    while not stop.wait(max(0.0, due - time.monotonic())):
        if rng.randrange(CASES_ON_A_CHANNEL) == 0:
            channel.close()
            channel = connect(target)
        run(rng.choices(names, weights)[0], channel, tally)
        # Lost time is not made up for: a burst after a pause would not be the rate asked for.
        due = max(due + rng.expovariate(rate), time.monotonic())
    channel.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", required=True)
    parser.add_argument("--rate", type=float, required=True, help="cases a second, of all threads")
    parser.add_argument("--threads", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tally, stop = Tally(), threading.Event()
    threads = [
        threading.Thread(
            target=work,
            args=(
                options.target,
                options.rate / options.threads,
                random.Random(f"{options.seed}/{number}"),
                tally,
                stop,
            ),
        )
        for number in range(options.threads)
    ]
    for thread in threads:
        thread.start()

    def listen() -> None:
        for line in sys.stdin:
            if line.strip() == "quit":
                break
        stop.set()

    threading.Thread(target=listen, daemon=True).start()
    while not stop.wait(REPORT_SECONDS):
        print(tally.as_json(final=False), flush=True)
    for thread in threads:
        thread.join()
    print(tally.as_json(final=True), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
