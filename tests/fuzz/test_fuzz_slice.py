"""A slice of `make fuzz` that is the same each time: the corpus, and inputs made from fixed seeds."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

CORPUS: Final = Path(__file__).parent / "corpus"
TARGETS: Final = ("frames", "headers", "engine")
RANDOM_INPUTS: Final = 40
MUTATED_INPUTS: Final = 120


def target(name: str) -> Callable[[bytes], None]:
    run: Callable[[bytes], None] = importlib.import_module(f"fuzz{name}").one
    return run


def corpus(name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


def made(name: str) -> Iterator[bytes]:
    """Random octets, and the corpus mutated and spliced."""
    rng = random.Random(f"evenstream {name}")
    known = corpus(name)
    for _ in range(RANDOM_INPUTS):
        yield rng.randbytes(rng.randrange(400))
    for _ in range(MUTATED_INPUTS):
        octets = bytearray(rng.choice(known))
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(len(octets) + 1)
            way = rng.randrange(4)
            if way == 0:
                octets[at:at] = rng.randbytes(rng.randrange(1, 4))
            elif way == 1:
                del octets[at : at + rng.randrange(1, 8)]
            elif way == 2 and at < len(octets):
                octets[at] = rng.randrange(256)
            else:
                octets[at:] = rng.choice(known)[at:]
        yield bytes(octets)


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus(name: str) -> None:
    found = corpus(name)
    assert found
    run = target(name)
    for octets in found:
        run(octets)


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_from_fixed_seeds(name: str) -> None:
    run = target(name)
    for octets in made(name):
        try:
            run(octets)
        except BaseException:
            print(f"input: {octets.hex()}")
            raise
