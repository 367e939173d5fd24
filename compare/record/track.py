"""One track trained by a preset and tested once, in a process of its own, with the loop of every other command.

    python -m compare.record.track speedrun-mnist 0 jax     seed 0

Nothing is evaluated before the end, and nothing is saved. It prints its test accuracy as a line of JSON.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from compare import machine, presets, tracks
from compare.config import Config
from compare.training import loop, worker
from compare.training.clocks import Timings
from compare.workers.protocol import Job


def train(config: Config, track: str) -> float:
    """Train as the preset says, and return the accuracy on all test images."""
    job = Job(config=config, track=track, threads=machine.cores(), folder=Path("nothing-is-saved"))
    training = worker.begin(job, tracks.load(track), Timings(), emit=lambda _: None)
    data, steps = training.data, training.schedule.steps
    training.data = dataclasses.replace(data, val_x=data.val_x[:0], val_y=data.val_y[:0])
    training.schedule = dataclasses.replace(training.schedule, evaluations=frozenset([steps]))
    loop.train(training)
    return float(training.last["test_accuracy"])


if __name__ == "__main__":
    preset, seed, name = sys.argv[1:]
    print(json.dumps({"test_accuracy": train(presets.seeded(preset, int(seed)), name)}), flush=True)
