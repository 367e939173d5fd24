"""The parity check: the tracks compute the same function, leaf by leaf.

``python -m compare.parity mlp cnn`` starts every track from one snapshot, feeds
them the same random images and prints, for each pair of tracks, the difference of:

    logits       before training
    gradients    of the first batch: after one step of momentum from rest, the momentum buffer is the gradient
    losses       of every step
    parameters   after all steps
    optimizer    its moments after all steps

``max_rel`` is ‖a - b‖/‖b‖ of a leaf (L2 norms), ``max_abs`` the largest |a - b|.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from compare import networks, tracks
from compare.config import Config
from compare.data.augment import augment
from compare.results.schema import ParityCheck, ParityRow
from numpy_nn.tree import Tree, leaves

# Relative L2 distance per leaf that each quantity may have, by precision.
TOLERANCES = {
    "float64": {"logits": 1e-10, "gradients": 1e-10, "losses": 1e-9, "parameters": 1e-9, "optimizer": 1e-9},
    "float32": {"logits": 1e-5, "gradients": 1e-4, "losses": 1e-4, "parameters": 1e-3, "optimizer": 1e-3},
    # Observed between JAX and PyTorch: 5e-3, 1e-1 (2e-2 without batch norm, whose gradients cancel), 2e-2; from each of
    # them to its float32: 9e-3, 3e-1 (5e-2), 7e-2. After ten such steps a small bias is noise: no parameters here.
    "bfloat16": {"logits": 5e-2, "gradients": 5e-1, "losses": 2e-1},
}
PERTURBATION = 1e-5  # relative change of each parameter: as much as float32 may change the logits
ILL_CONDITIONED = 0.1  # a quantity that the perturbation changes by more is not compared in float32
BATCH = 32
ATTEMPTS = 3
SCHEDULE_STEPS = 1000  # length of the run whose first few steps are taken

# Arguments of the networks whose own defaults take more than seconds to check. Small for a second reason: in float32
# one in a few million relus stands so close to zero that two tracks disagree about its sign, and then about a gradient.
EXAMPLES: dict[str, dict[str, Any]] = {
    "vgg": {"input_shape": (8, 8, 3), "stages": (1, 2), "channels": (4, 8)},
    "resnet": {"input_shape": (8, 8, 3), "stages": (1, 1), "channels": (4, 8)},
    "densenet": {"input_shape": (8, 8, 3), "blocks": (2, 1), "growth": 4},
    "rnn": {"input_shape": (9, 8, 1), "hidden": 12},
    "lstm": {"input_shape": (9, 8, 1), "hidden": 12},
    "vit": {"input_shape": (8, 8, 3), "patch": 4, "dim": 8, "depth": 2, "heads": 2, "mlp_dim": 12},
    "gpt": {"input_shape": (9,), "dim": 8, "depth": 2, "heads": 2, "mlp_dim": 12, "classes": 11},
}

Distances = dict[str, tuple[float, float]]  # {leaf: (max_abs, max_rel)}
Details = dict[str, Distances]  # by quantity


@dataclasses.dataclass(frozen=True)
class Quantities:
    """What one track computed: a tree for each quantity of ``TOLERANCES``."""

    logits: Tree
    gradients: Tree
    losses: Tree
    parameters: Tree
    optimizer: Tree


def distance(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Largest |a - b|, and ‖a - b‖/‖b‖ in float64; infinite if a value is not finite or only b is zero."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    gap, norm = np.linalg.norm(a - b), np.linalg.norm(b)
    if gap == 0:
        return 0.0, 0.0
    if not np.isfinite(gap) or norm == 0:
        return float("inf"), float("inf")
    return float(np.abs(a - b).max()), float(gap / norm)


def distances(a: Mapping[str, Any], b: Mapping[str, Any]) -> Distances:
    """:func:`distance` of every leaf of two trees with the same leaves."""
    left, right = leaves(a), leaves(b)
    if left.keys() != right.keys():
        raise ValueError(f"different leaves: {sorted(left.keys() ^ right.keys())}")
    return {path: distance(left[path], right[path]) for path in left}


def compute(config: Config, track_name: str, *, steps: int, attempt: int = 1, perturbation: float = 0.0) -> Quantities:
    """Run one track for a few steps on random images, which are the same for every track in an attempt.

    ``perturbation``: standard deviation of a relative random change of each parameter beforehand.
    """
    track = tracks.load(track_name)
    rng = np.random.default_rng((config.seed, attempt))
    snapshot = networks.first_snapshot(config.model, config.model_args, rng)
    noise = np.random.default_rng(attempt)
    for parameter in leaves(snapshot["params"]).values():
        parameter *= 1 + perturbation * noise.standard_normal(parameter.shape)
    x, y = random_batches(config, rng, steps=steps)
    channels = x.shape[-1] if x.ndim > 3 else 1
    arguments = tracks.state_arguments(config, track_name, steps=SCHEDULE_STEPS, threads=1)
    arguments |= {"mean": (0.13,) * channels, "std": (0.31,) * channels}
    momentum = {"optimizer": "momentum", "optimizer_args": {}}
    state = track.init_state(snapshot, **arguments | momentum)
    logits = np.asarray(track.logits(state, x[0]))
    state, _ = track.train_steps(state, x[:1], y[:1])
    gradients = track.to_snapshot(state)["opt"]["mu"]
    state = track.init_state(snapshot, **arguments)
    state, metrics = track.train_steps(state, x, y)
    final = track.to_snapshot(state)
    return Quantities(
        logits={"logits": logits},
        gradients=gradients,
        losses={f"step {k}": loss for k, loss in enumerate(np.asarray(metrics["loss"]))},
        parameters={part: final[part] for part in ("params", "stats", "ema") if part in final},
        optimizer={slot: moment for slot, moment in final["opt"].items() if slot != "count"},
    )


def random_batches(config: Config, rng: np.random.Generator, *, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (k, n, h, w, c) and labels (k, n), or (k, n, v) if augmentation mixes them; or tokens (k, n, t)."""
    shape = tracks.model_argument(config.model, config.model_args, "input_shape")
    classes = tracks.model_argument(config.model, config.model_args, "classes")
    parts = config.accumulate * config.devices
    n = parts * max(BATCH // parts, 2)
    if len(shape) == 1:
        tokens = rng.integers(0, classes, (steps, n, shape[0] + 1))
        return tokens[..., :-1].astype(np.uint8), tokens[..., 1:].astype(np.int32)
    x = rng.integers(0, 256, (steps, n, *shape), dtype=np.uint8)
    y = rng.integers(0, classes, (steps, n), dtype=np.int32)
    if config.augment:
        return augment(x, y, config.augment, seed=config.seed, step=0, classes=classes)
    return x, y


def check_parity(
    config: Config, names: Sequence[str], *, steps: int = 10, say: Callable[[str], object] = lambda text: None
) -> list[tuple[ParityRow, Details]]:
    """Compare every pair of tracks; NumPy is left out in bfloat16, which it does not have.

    ``say`` is called with what is computed next: ``mlp-mnist float64 jax``.

    A relu or a max pool has a kink, and where float32 rounds a value to its other
    side, the tracks rightly follow different branches: the distance jumps from
    3e-7 to 3e-3 within a step. On random images that happens to one of some million
    pixels. So a check that fails, except in float64, is repeated on other images, up to
    ``ATTEMPTS`` times; a wrong formula fails on all of them.
    A deep network has so many kinks that every attempt meets some, and ten steps of it
    magnify a rounding to anything. A check that fails in float32 is therefore also
    compared with the :func:`sensitivity` of the network.

    Returns:
        Rows of results.json's ``parity``, each with its distances leaf by leaf.
    """
    names = tracks.supporting(config.precision, names)
    rows = []
    for attempt in range(1, 1 + (1 if config.precision == "float64" else ATTEMPTS)):
        with exact_jax(config.precision):
            computed = {}
            for name in names:
                say(f"{config.preset} {config.precision} {name}")
                computed[name] = compute(config, name, steps=steps, attempt=attempt)
        rows = compare_all(config, computed, steps=steps, attempt=attempt)
        if config.precision == "float32" and not agree(rows):
            change = sensitivity(config, steps=steps, attempt=attempt)
            rows = compare_all(config, computed, steps=steps, attempt=attempt, change=change)
        if agree(rows):
            break
    return rows


def agree(rows: Sequence[tuple[ParityRow, Details]]) -> bool:
    """Whether all pairs passed."""
    return all(row["passed"] for row, _ in rows)


def sensitivity(config: Config, *, steps: int, attempt: int) -> dict[str, float]:
    """Relative change of each quantity but the logits, its worst leaf, if the parameters are perturbed.

    The perturbation is as small as the difference that float32 may leave in two tracks' logits. Computed by NumPy in
    float64, whose formulas the parity check in float64 has compared with those of all tracks; by JAX for a network of
    the user that NumPy does not have.
    """
    exact = dataclasses.replace(config, precision="float64")
    track, *_ = networks.available(config.model, list(tracks.TRACKS), asked=False)
    with exact_jax("float64"):
        perturbed, unchanged = (
            compute(exact, track, steps=steps, attempt=attempt, perturbation=size) for size in (PERTURBATION, 0.0)
        )
    quantities = [what for what in TOLERANCES["float32"] if what != "logits"]
    change = {what: distances(getattr(perturbed, what), getattr(unchanged, what)) for what in quantities}
    return {what: max(rel for _, rel in found.values()) for what, found in change.items() if found}


def compare_all(
    config: Config,
    computed: Mapping[str, Quantities],
    *,
    steps: int,
    attempt: int,
    change: Mapping[str, float] | None = None,
) -> list[tuple[ParityRow, Details]]:
    """A row for each pair of tracks; ``change`` is the :func:`sensitivity`, if it widens the tolerances."""
    rows: list[tuple[ParityRow, Details]] = []
    for a, b in itertools.combinations(computed, 2):
        checks, details = compare(computed[a], computed[b], TOLERANCES[config.precision], change or {})
        row: ParityRow = {
            "preset": config.preset,
            "precision": config.precision,
            "steps": steps,
            "attempts": attempt,
            "a": a,
            "b": b,
            "passed": bool(checks) and all(check["passed"] for check in checks),
            "sensitivity": dict(change or {}),
            "checks": checks,
            "leaves": {
                what: {path: float(f"{rel:.2e}") for path, (_, rel) in found.items()}
                for what, found in details.items()
                if what != "losses"
            },
        }
        rows.append((row, details))
    return rows


def compare(
    a: Quantities, b: Quantities, tolerances: Mapping[str, float], change: Mapping[str, float]
) -> tuple[list[ParityCheck], Details]:
    """Compare two tracks with the tolerances, or with twice the ``change`` by a perturbation if that is larger."""
    checks: list[ParityCheck] = []
    details: Details = {}
    for what, usual in tolerances.items():
        found = distances(getattr(a, what), getattr(b, what))
        if not found or change.get(what, 0.0) > ILL_CONDITIONED:  # sgd has no moments
            continue
        tolerance = max(usual, 2 * change.get(what, 0.0))
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
    return checks, details


@contextlib.contextmanager
def exact_jax(precision: str) -> Iterator[None]:
    """JAX with or without float64, and every matmul in full precision."""
    import jax

    with jax.enable_x64(precision == "float64"), jax.default_matmul_precision("highest"):
        yield


def parity_config(config: Config, precision: str) -> Config:
    """The config to check: in float64 (the formulas) on the CPU, in the precision that is timed on its device."""
    device = "cpu" if precision == "float64" else config.device
    return dataclasses.replace(config, precision=precision, device=device)
