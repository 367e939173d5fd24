"""Random numbers as a pure function of what they are for: there is never a generator state to save."""

from __future__ import annotations

import numpy as np

from compare.errors import UserError

# equal seeds must not mean equal numbers for different purposes
SPLIT, SHUFFLE, AUGMENT, MIXUP, LABELS, SAMPLE = range(6)


def generator(purpose: int, seed: int, index: int = 0) -> np.random.Generator:
    """A fresh generator that depends on (purpose, seed, index) and nothing else."""
    if seed < 0:
        raise UserError(f"seed {seed} is negative: choose a seed of 0 or more")
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(purpose, index))))
