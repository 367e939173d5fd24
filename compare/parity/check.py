"""The proof: the three tracks are one function, leaf by leaf.

``python -m compare.parity mlp cnn`` starts every track from one snapshot, feeds
them the same random images and prints, for each pair of tracks, how far apart
they are:

    logits       before training
    gradients    of the first batch: after one step of momentum from rest, its memory μ is the gradient
    losses       of every step
    parameters   after all steps
    optimizer    its moments after all steps

``max_rel`` is ‖a - b‖/‖b‖ of a leaf (L2 norms), ``max_abs`` the largest |a - b|.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from compare import tracks
from compare.config import Config
from compare.data.augment import augment
from numpy_nn.tree import Tree, leaves

# Relative L2 distance per leaf that each quantity may have, by precision.
TOLERANCES = {
    "float64": {"logits": 1e-10, "gradients": 1e-10, "losses": 1e-9, "parameters": 1e-9, "optimizer": 1e-9},
    "float32": {"logits": 1e-5, "gradients": 1e-4, "losses": 1e-4, "parameters": 1e-3, "optimizer": 1e-3},
    # Observed between JAX and PyTorch: 5e-3, 1e-1 (2e-2 without batch norm, behind which gradients cancel), 2e-2; from
    # each of them to its float32: 9e-3, 3e-1 (5e-2), 7e-2. What ten such steps make of a small bias proves nothing.
    "bfloat16": {"logits": 5e-2, "gradients": 5e-1, "losses": 2e-1},
}
# Relative change of each parameter, as far as float32 may move logits: two tracks may be twice as far apart in all else
# as it moves that. What it moves by more than LOST says nothing in float32.
NUDGE, LOST = 1e-5, 0.1
BATCH = 32
DRAWS = 3
HORIZON = 1000  # steps of the run whose first few are taken

# Arguments of the networks whose own defaults take more than seconds to prove. Small for a second reason: in float32
# one in a few million relus stands so close to zero that two tracks disagree about its sign, and then about a gradient.
EXAMPLES: dict[str, dict[str, Any]] = {
    "vgg": {"input_shape": (8, 8, 3), "stages": (1, 2), "channels": (4, 8)},
    "resnet": {"input_shape": (8, 8, 3), "stages": (1, 1), "channels": (4, 8)},
    "densenet": {"input_shape": (8, 8, 3), "blocks": (2, 1), "growth": 4},
    "rnn": {"input_shape": (9, 8, 1), "hidden": 12},
    "lstm": {"input_shape": (9, 8, 1), "hidden": 12},
    "vit": {"input_shape": (8, 8, 3), "patch": 4, "dim": 8, "depth": 2, "heads": 2, "mlp_dim": 12},
}

Row = dict[str, Any]
Details = dict[str, dict[str, tuple[float, float]]]  # {what: {leaf: (max_abs, max_rel)}}


@dataclasses.dataclass(frozen=True)
class Observed:
    """What one track computed: named arrays for each quantity, and where they stand in ``TOLERANCES``."""

    logits: Tree
    gradients: Tree
    losses: Tree
    parameters: Tree
    optimizer: Tree


def distance(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Largest |a - b|, and ‖a - b‖/‖b‖ in float64; NaN or a lone zero norm is infinitely far."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    gap, norm = np.linalg.norm(a - b), np.linalg.norm(b)
    if gap == 0:
        return 0.0, 0.0
    if not np.isfinite(gap) or norm == 0:
        return float("inf"), float("inf")
    return float(np.abs(a - b).max()), float(gap / norm)


def distances(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """:func:`distance` of every leaf of two trees with the same leaves."""
    left, right = leaves(a), leaves(b)
    if left.keys() != right.keys():
        raise ValueError(f"different leaves: {sorted(left.keys() ^ right.keys())}")
    return {path: distance(left[path], right[path]) for path in left}


def observe(config: Config, track_name: str, *, steps: int, draw: int = 1, nudge: float = 0.0) -> Observed:
    """Run one track for a few steps on random images, the same for every track: those of this draw.

    ``nudge``: a random change of each parameter beforehand, relative.
    """
    from numpy_nn.models import MODELS

    track = tracks.load(track_name)
    rng = np.random.default_rng((config.seed, draw))
    network = MODELS[config.model](**config.model_args)
    snapshot = network.init(rng)
    chance = np.random.default_rng(draw)
    for parameter in leaves(snapshot["params"]).values():
        parameter *= 1 + nudge * chance.standard_normal(parameter.shape)
    parts = config.accumulate * config.devices
    n = parts * max(BATCH // parts, 2)
    x = rng.integers(
        0, 256, (steps, n, *tracks.model_argument(config.model, config.model_args, "input_shape")), dtype=np.uint8
    )
    classes = tracks.model_argument(config.model, config.model_args, "classes")
    y = rng.integers(0, classes, (steps, n), dtype=np.int32)
    if config.augment:
        x, y = augment(x, y, config.augment, seed=config.seed, step=0, classes=classes)
    channels = x.shape[-1]
    arguments = tracks.state_arguments(config, track_name, steps=HORIZON, threads=1)
    arguments |= {"mean": (0.13,) * channels, "std": (0.31,) * channels}
    at_rest = {"optimizer": "momentum", "optimizer_args": {}}
    state = track.init_state(snapshot, **arguments | at_rest)
    logits = np.asarray(track.logits(state, x[0]))
    state, _ = track.train_steps(state, x[:1], y[:1])
    gradients = track.to_snapshot(state)["opt"]["mu"]
    state = track.init_state(snapshot, **arguments)
    state, metrics = track.train_steps(state, x, y)
    final = track.to_snapshot(state)
    moments = {slot: moment for slot, moment in final["opt"].items() if slot != "count"}
    return Observed(
        logits={"logits": logits},
        gradients=gradients,
        losses={f"step {k}": loss for k, loss in enumerate(np.asarray(metrics["loss"]))},
        parameters={part: final[part] for part in ("params", "stats", "ema") if part in final},
        optimizer=moments,
    )


def prove(config: Config, names: Sequence[str], *, steps: int = 10) -> list[tuple[Row, Details]]:
    """Compare every pair of tracks: rows of results.json's ``proof``, each with its distances leaf by leaf.

    A relu or a max pool has a kink, and where float32 rounds a pixel to its other
    side, the tracks rightly follow different branches: the distance jumps from
    3e-7 to 3e-3 within a step. On random images that befalls one of some million
    pixels. So what fails, in float64 excepted, is asked again on other images, up to
    ``DRAWS`` times; a wrong formula fails on all of them. ``draws`` says how many it took.
    A deep network has so many kinks that every draw meets some, and ten steps of it
    magnify a rounding to anything. What fails in float32 is therefore also held against
    its :func:`sensitivity`.
    In bfloat16 NumPy is left out: it has no such numbers.
    """
    names = tracks.that_have(config.precision, names)

    def rows(moved: Mapping[str, float]) -> list[tuple[Row, Details]]:
        return [
            compare(config, a, observed[a], b, observed[b], steps=steps, draws=draw, moved=moved)
            for a, b in itertools.combinations(names, 2)
        ]

    for draw in range(1, 1 + (1 if config.precision == "float64" else DRAWS)):
        with exact_jax(config.precision):
            observed = {name: observe(config, name, steps=steps, draw=draw) for name in names}
        found = rows({})
        if config.precision == "float32" and not agree(found):
            found = rows(sensitivity(config, steps=steps, draw=draw))
        if agree(found):
            break
    return found


def agree(rows: Sequence[tuple[Row, Details]]) -> bool:
    """Do all pairs agree?"""
    return all(row["passed"] for row, _ in rows)


def sensitivity(config: Config, *, steps: int, draw: int) -> dict[str, float]:
    """How far each quantity but the logits moves, its farthest leaf, if the parameters of exact arithmetic are nudged.

    By as little as two tracks' logits may be apart in float32. Asked of NumPy in float64, whose
    formulas the proof in float64 has shown to be those of all tracks.
    """
    exact = dataclasses.replace(config, precision="float64")
    nudged, still = (observe(exact, "numpy", steps=steps, draw=draw, nudge=nudge) for nudge in (NUDGE, 0.0))
    quantities = [what for what in TOLERANCES["float32"] if what != "logits"]
    moved = {what: distances(getattr(nudged, what), getattr(still, what)) for what in quantities}
    return {what: max(rel for _, rel in found.values()) for what, found in moved.items() if found}


def compare(
    config: Config,
    a: str,
    seen_by_a: Observed,
    b: str,
    seen_by_b: Observed,
    *,
    steps: int,
    draws: int,
    moved: Mapping[str, float],
) -> tuple[Row, Details]:
    """Hold what two tracks computed against the tolerances of the config's precision, or twice what a nudge moves."""
    checks, details = [], {}
    for what, usual in TOLERANCES[config.precision].items():
        found = distances(getattr(seen_by_a, what), getattr(seen_by_b, what))
        if not found or moved.get(what, 0.0) > LOST:  # sgd has no moments
            continue
        tolerance = max(usual, 2 * moved.get(what, 0.0))
        worst = max(found, key=lambda path: found[path][1])
        checks.append(
            {
                "what": what,
                "worst_leaf": worst,
                "max_abs": max(each[0] for each in found.values()),
                "max_rel": found[worst][1],
                "tolerance": tolerance,
                "passed": found[worst][1] <= tolerance,
            }
        )
        details[what] = found
    row = {
        "preset": config.preset,
        "precision": config.precision,
        "steps": steps,
        "draws": draws,
        "a": a,
        "b": b,
        "passed": bool(checks) and all(check["passed"] for check in checks),
        "sensitivity": dict(moved),  # by quantity, where float32 was held against it; {} where it was not needed
        "checks": checks,
        "leaves": {  # max_rel of each: losses of every step left out
            what: {path: float(f"{rel:.2e}") for path, (_, rel) in found.items()}
            for what, found in details.items()
            if what != "losses"
        },
    }
    return row, details


@contextlib.contextmanager
def exact_jax(precision: str) -> Iterator[None]:
    """JAX with or without float64, and every matrix product in full precision."""
    import jax

    with jax.enable_x64(precision == "float64"), jax.default_matmul_precision("highest"):
        yield


# --- command line -----------------------------------------------------------------------------------------------------


def proof_of(config: Config, precision: str) -> Config:
    """What is to be proven of a config: in float64 the formulas, on the CPU; else what computes, where it does."""
    device = "cpu" if precision == "float64" else config.device
    return dataclasses.replace(config, precision=precision, device=device)
