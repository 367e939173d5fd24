"""Several threads for one step of NumPy: the result of one, for batch norm too, and an end for all if one fails."""

from __future__ import annotations

import numpy as np
import pytest

from compare.parity import EXAMPLES
from numpy_nn import parallel, train
from numpy_nn.models import MODELS
from numpy_nn.tree import Tree, leaves

TOLERANCE = 2e-14  # of the largest number in a leaf; observed: 1.6e-15

IMAGE = {"resnet": (8, 8, 3), "cnn": (28, 28, 1)}  # with and without batch norm


def after_three_steps(model: str, batch: int, threads: int) -> Tree:
    args = EXAMPLES.get(model, {})
    network, rng = MODELS[model](**args), np.random.default_rng(0)
    x = rng.integers(0, 256, (3, batch, *IMAGE[model]), dtype=np.uint8)
    y = rng.integers(0, 10, (3, batch), dtype=np.int32)
    state = train.init_state(
        network.init(rng),
        model=model,
        model_args=args,
        optimizer="momentum",
        schedule_args={"lr": 0.05, "steps": 3},
        mean=[0.4] * IMAGE[model][-1],
        std=[0.3] * IMAGE[model][-1],
        threads=threads,
        precision="float64",
    )
    return train.to_snapshot(train.train_steps(state, x, y)[0])


@pytest.mark.parametrize("batch", [8, 9, 7])  # divisible by 2, by 3, by nothing
@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("model", IMAGE)
def test_several_threads_do_what_one_does(model: str, threads: int, batch: int) -> None:
    want = leaves(after_three_steps(model, batch, 1))
    got = leaves(after_three_steps(model, batch, threads))
    gaps = {path: np.abs(got[path] - want[path]).max() / max(np.abs(want[path]).max(), 1) for path in want}
    assert max(gaps.values()) <= TOLERANCE, max(gaps, key=lambda path: gaps[path])


def test_a_mean_is_that_of_all() -> None:
    def twice(number: int, *, all_mean, shards: int) -> tuple[float, float, int]:
        first = all_mean(np.array([number]))[0]
        return first, all_mean(np.array([first * number]))[0], shards

    for _ in range(100):
        assert parallel.run_together(twice, [1, 2, 3, 6]) == [(3.0, 9.0, 4)] * 4


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_one_failure_ends_the_waiting_of_all(failing: int) -> None:
    def fail_between(place: int, *, all_mean, shards: int) -> None:
        all_mean(np.ones(1))
        if place == failing:
            raise RuntimeError(f"shard {place} of {shards} fails")
        all_mean(np.ones(1))

    with pytest.raises(RuntimeError, match=f"shard {failing} of 3 fails"):
        parallel.run_together(fail_between, [0, 1, 2])
    assert parallel.run_together(lambda x, **_: x, [1, 2, 3]) == [1, 2, 3]  # the threads are free again


def test_equal_shards_are_fewer_rather_than_unequal() -> None:
    assert [len(shard) for shard in parallel.shards(np.zeros(10), 4)] == [3, 3, 2, 2]
    assert [len(shard) for shard in parallel.shards(np.zeros(10), 4, equal=True)] == [5, 5]
    assert [len(shard) for shard in parallel.shards(np.zeros(7), 4, equal=True)] == [7]
