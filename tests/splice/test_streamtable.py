"""The table of open streams does what a dict of them does, whatever the numbers are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.balance.endpoints import ServicePort
from sidecar.splice.engine import Engine
from sidecar.splice.stream import Stream
from sidecar.splice.streamtable import FIRST_PLACES, MOST_PLACES, StreamTable
from sidecar.wire.blocks import Block

ENGINE = Engine(1)
DOWN = ENGINE.accept(ServicePort("default", "greeter", 50051), 0.0)
SPREAD = st.one_of(
    st.integers(0, 300),
    st.integers(0, 40).map(lambda n: n * int(FIRST_PLACES)),  # all want the same place
    st.integers(0, 40).map(lambda n: n * int(MOST_PLACES)),
)


def stream(number: int) -> Stream:
    return Stream(DOWN.service, DOWN, number, Block(b""), 0.0)


@given(st.lists(st.tuples(st.booleans(), SPREAD.map(lambda n: 2 * n + 1)), max_size=400))
def test_it_is_a_dict(steps: list[tuple[bool, int]]) -> None:
    table, model = StreamTable(True), {}
    for wanted, number in steps:
        if wanted and number not in model:
            model[number] = stream(number)
            table.add(number, model[number])
        elif not wanted:
            assert table.remove(number) == (model.pop(number, None) is not None)
        assert len(table) == table.count() == len(model)
        assert table.find(number) is model.get(number)
    assert list(table) == sorted(model)
    assert {id(s) for s in table.values()} == {id(s) for s in model.values()}
    assert all(table.find(number) is found for number, found in model.items())
    assert {id(s) for s in table.take_all()} == {id(s) for s in model.values()}
    assert len(table) == 0
    assert all(table.find(number) is None for number in model)


def test_ten_thousand_streams_at_once() -> None:
    table = StreamTable(True)
    streams = {number: stream(number) for number in range(1, 20_001, 2)}
    for number, each in streams.items():
        table.add(number, each)
    assert list(table) == list(streams)
    assert all(table.find(number) is each for number, each in streams.items())
    assert all(table.remove(number) for number in streams)
    assert table.values() == []
