"""Counting finished streams."""

from __future__ import annotations

from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st

from sidecar.splice.stats import LATENCY_BUCKETS, StreamStats, latency_bucket

SECONDS = st.one_of(st.sampled_from(LATENCY_BUCKETS), st.floats(0, 1000))


@given(SECONDS)
def test_a_bucket_holds_what_is_at_most_its_bound(seconds: float) -> None:
    assert latency_bucket(seconds) == bisect_left(LATENCY_BUCKETS, seconds)


@given(st.lists(st.tuples(st.sampled_from([0, 0, 0, -1, 14]), SECONDS), max_size=60))
def test_every_stream_is_counted_once(ended: list[tuple[int, float]]) -> None:
    stats = StreamStats()
    buckets, statuses = [0] * (len(LATENCY_BUCKETS) + 1), {}
    for status, seconds in ended:
        stats.finished(status, seconds)
        buckets[bisect_left(LATENCY_BUCKETS, seconds)] += 1
        statuses[status] = statuses.get(status, 0) + 1
        assert stats.seconds_buckets == buckets
        assert stats.by_status == statuses
