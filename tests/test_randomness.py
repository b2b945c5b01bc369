from __future__ import annotations

import os
import subprocess
import sys

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sansref.randomness import seeded

keys = st.lists(st.integers() | st.text(max_size=5), max_size=3).map(tuple)


def number(*names: int | str) -> float:
    return float(torch.rand((), generator=seeded(*names), dtype=torch.float64))


@settings(max_examples=100, deadline=None)
@given(one=keys, other=keys)
def test_streams_are_equal_exactly_where_their_keys_are(
    one: tuple[int | str, ...], other: tuple[int | str, ...]
) -> None:
    assert (number(*one) == number(*other)) is (one == other)


def test_keys_are_told_apart_by_type_order_and_borders() -> None:
    groups = [(1, 2), ("1", 2), (2, 1), (12,), ("1, 2",), ("12",), (1, "2"), (1,), (1, 2, 0), ()]
    assert len({number(*group) for group in groups}) == len(groups)


def test_neither_other_draws_nor_the_global_generator_matter() -> None:
    first = number(0, "partition")
    torch.manual_seed(5)
    torch.rand(100)
    number(1, "partition")
    before = torch.get_rng_state()
    assert number(0, "partition") == first
    assert torch.equal(torch.get_rng_state(), before)


def test_another_process_gets_the_same_stream() -> None:
    """Python's own hash of text differs between processes."""
    code = "from sansref.randomness import seeded; print(seeded(3, 'noise', 'a.h5').initial_seed())"
    environment = os.environ | {"PYTHONHASHSEED": "12345"}
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert int(output.stdout) == seeded(3, "noise", "a.h5").initial_seed()
