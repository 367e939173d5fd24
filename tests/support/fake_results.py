"""An invented results.json, for the tests of everything that reads one."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from compare import presets as known_presets
from compare.machine.disturbance import Disturbance
from compare.results.arrays import pack
from compare.results.schema import DriftRow, ErrorAnalysis, Evaluation, ParityRow, Results, RunResult, new_run
from numpy_nn.optim import schedule

SPEED = {"numpy": 0.5, "jax": 0.9, "torch": 1.0}
PRESETS = {"mlp-mnist": (40_000.0, 10, 0.983), "cnn-mnist": (2_900.0, 8, 0.9925)}
WINDOWS = {"mlp-mnist": (28, 28), "cnn-mnist": (5, 5)}
QUIET = Disturbance(others=0.01, throttled=0.0, preemptions=3.0, step_spread=1.25, matmul_swing=1.02, load=0.5)
LEAVES = {"mlp-mnist": "layers/1/kernel", "cnn-mnist": "convs/0/kernel"}


def fake_results(
    *,
    presets: tuple[str, ...] = ("mlp-mnist", "cnn-mnist"),
    tracks: tuple[str, ...] = ("numpy", "jax", "torch"),
    seeds: tuple[int, ...] = (0,),
    steps: int = 860,
) -> Results:
    """A finished comparison; the loss curves share their noise and drift apart as float32 does."""
    cases = list(itertools.product(presets, tracks, seeds))
    return {
        "schema": 2,
        "kind": "comparison",
        "id": "0123456789ab",
        "created": "2026-03-01T12:00:00+00:00",
        "status": "finished",
        "command": f"python compare/run_all.py {' '.join(presets)}",
        "settings": {"parity": True, "mlflow": False, "save_every": "60s", "keep": 2, "resume_from": None},
        "environment": {
            "python": "3.11.9",
            "platform": "Linux-6.1-x86_64",
            "cpu": "Imaginary CPU @ 2.50GHz",
            "cores": 2,
            "threads": 2,
            "versions": {"numpy": "2.4.6", "jax": "0.10.2", "flax": "0.12.8", "torch": "2.15.0", "mlflow": "3.17.2"},
            "git_commit": "0123456789abcdef0123456789abcdef01234567",
            "gemm_gflops": 150.0,
            "memory_gbs": 20.0,
            "load": {"before": 0.4, "after": 1.9},
            "disturbed": [],
        },
        "runs": [fake_run(preset, track, seed, steps) for preset, track, seed in cases],
        "parity": [fake_parity(preset, a, b) for preset in presets for a, b in itertools.combinations(tracks, 2)],
        "drift": [
            fake_drift(preset, seed, a, b)
            for preset, seed in itertools.product(presets, seeds)
            for a, b in itertools.combinations(tracks, 2)
        ],
    }


def fake_run(preset: str, track: str, seed: int, steps: int) -> RunResult:
    """One finished run of `steps` steps."""
    images_per_second, epochs, best = PRESETS[preset]
    images_per_second *= SPEED[track] * (1 + 0.01 * seed)
    shared = np.random.default_rng(seed)  # every track sees the same batches
    own = np.random.default_rng([seed, *track.encode()])
    t = np.arange(1, steps + 1)
    loss = (2.3 * np.exp(-t / 90) + 0.35 * np.exp(-t / 500) + 0.004) * np.exp(0.35 * shared.standard_normal(steps))
    loss *= 1 + own.standard_normal(steps) * np.minimum(3e-7 * np.exp(t / 110), 0.05)
    train_seconds = 55_000 * epochs / images_per_second
    config = dataclasses.replace(known_presets.get(preset), seed=seed)
    history: list[Evaluation] = []
    rate = schedule(config.schedule, lr=config.lr, steps=steps, **config.schedule_args)
    for epoch in range(1, epochs + 1):
        step = max(1, round(steps * epoch / epochs))
        accuracy = best - 0.09 * np.exp(-epoch / 1.7) + 0.0008 * own.standard_normal()
        last = epoch == epochs
        history.append(
            {
                "step": step,
                "epoch": float(epoch),
                "train_loss": float(loss[max(0, step - 50) : step].mean()),
                "test_loss": 0.05 if last else None,
                "test_accuracy": accuracy if last else None,
                "val_loss": float(0.05 + 0.2 * np.exp(-epoch / 2)),
                "val_accuracy": accuracy,
                "lr": rate(step - 1),
                "seconds": train_seconds * epoch / epochs,
            }
        )
    compile_seconds = {"numpy": 0.0, "jax": 1.4, "torch": 0.2}[track]
    import_seconds = {"numpy": 0.1, "jax": 1.1, "torch": 2.3}[track]
    gflops = images_per_second * 2.2e-3
    step_ms = 1000 * 128 / images_per_second
    return new_run(config, track) | {
        "parameters": 669_706,
        "steps": steps,
        "epochs": float(epochs),
        "test_accuracy": history[-1]["test_accuracy"],
        "test_count": 10_000,
        "test_loss": 0.05,
        "val_accuracy": history[-1]["val_accuracy"],
        "val_loss": history[-1]["val_loss"],
        "val_count": 5_000,
        "seconds": {
            "import": import_seconds,
            "data": 0.3,
            "compile": compile_seconds,
            "train": train_seconds,
            "eval": 0.05 * train_seconds,
            "total": import_seconds + 0.3 + compile_seconds + 1.05 * train_seconds,
        },
        "step_ms": {"median": step_ms, "p10": 0.96 * step_ms, "p90": 1.2 * step_ms},
        "images_per_second": images_per_second,
        "flops_per_image": 2_200_000,
        "step_bytes": 30_000_000,
        "gflops": gflops,
        "input_share": 0.01,
        "matmul_gflops": {"numpy": 150.0},
        "gemm_gflops": 150.0,
        "gemm_share": gflops / 150.0,
        "peak_rss_mb": {"numpy": 310.0, "jax": 640.0, "torch": 820.0}[track],
        "import_rss_mb": {"numpy": 60.0, "jax": 250.0, "torch": 420.0}[track],
        "chunk": 43,
        "history": history,
        "step_loss": loss.tolist(),
        "checkpoint": f"checkpoints/{preset}/{track}/{seed}",
        "status": "finished",
        "hardware": "cpu",
        "data": {"name": "mnist", "digest": "5d" * 32, "train": 55_000, "val": 5_000, "test": 10_000},
        "matmul_precision": "float32",
        "resumed": [],
        "disturbance": QUIET.copy(),
        "error_analysis": fake_error_analysis(preset, best, own),
    }


def fake_error_analysis(preset: str, accuracy: float, rng: np.random.Generator) -> ErrorAnalysis:
    """Errors spread at random over ten classes, three of them as pictures, and filters of noise."""
    counts = rng.multinomial(round(10_000 * (1 - accuracy)), np.full(90, 1 / 90))
    confusion = np.zeros((10, 10), int)
    confusion[~np.eye(10, dtype=bool)] = counts
    np.fill_diagonal(confusion, 1000 - confusion.sum(axis=1))
    filters = rng.integers(-127, 128, (16, *WINDOWS[preset], 1), dtype=np.int8)
    misclassified = [
        {
            "index": 1000 * k,
            "label": k,
            "prediction": k + 1,
            "probability": 0.999 - 0.01 * k,
            "image": pack(rng.integers(0, 256, (28, 28, 1), dtype=np.uint8)),
        }
        for k in range(3)
    ]
    return {
        "classes": list("0123456789"),
        "confusion": confusion.tolist(),
        "misclassified": misclassified,
        "filters": {"leaf": LEAVES[preset], "units": list(range(16)), "values": pack(filters)},
    }


def fake_drift(preset: str, seed: int, a: str, b: str) -> DriftRow:
    """How far two tracks are apart at the end of training."""
    return {
        "preset": preset,
        "seed": seed,
        "a": a,
        "b": b,
        "first_loss_gap": 1.2e-7,
        "max_loss_gap": 3.1e-2,
        "worst_leaf": f"params/{LEAVES[preset]}",
        "max_abs": 1.3e-2 * (1 + seed),
        "max_rel": 4.0e-2,
    }


def fake_parity(preset: str, a: str, b: str) -> ParityRow:
    """A parity check that passed."""
    tolerances = {"logits": 1e-5, "gradients": 1e-4, "losses": 1e-4, "parameters": 1e-3, "optimizer": 1e-3}
    checks = [
        {
            "what": what,
            "worst_leaf": what if what in ("logits", "losses") else LEAVES[preset],
            "max_abs": 0.01 * tolerance,
            "max_rel": 0.05 * tolerance,
            "tolerance": tolerance,
            "passed": True,
        }
        for what, tolerance in tolerances.items()
    ]
    leaves = {
        "logits": {"logits": 5e-7},
        "gradients": {LEAVES[preset]: 5e-6, "output/kernel": 2e-7},
        "parameters": {f"params/{LEAVES[preset]}": 5e-5, "params/output/kernel": 3e-7, "stats/norm/mean": 0.0},
        "optimizer": {f"mu/{LEAVES[preset]}": 5e-5, "mu/output/kernel": 4e-6},
    }
    return {
        "preset": preset,
        "precision": "float32",
        "steps": 10,
        "attempts": 1,
        "a": a,
        "b": b,
        "passed": True,
        "sensitivity": {},
        "checks": checks,
        "leaves": leaves,
    }


def fail_parity(results: Results, preset: str, track: str) -> None:
    """Make `track` compute another model in `preset`: its gradients differ from those of all others."""
    for pair in results["parity"]:
        if pair["preset"] == preset and track in (pair["a"], pair["b"]):
            pair["passed"] = False
            pair["checks"][1] |= {"passed": False, "max_rel": 3e-2, "max_abs": 1e-2}


def stop_run(run: RunResult, status: str, *, step: int, message: str | None = None) -> None:
    """Let a run have ended early, after `step` steps."""
    names = "test_accuracy test_count test_loss val_accuracy val_loss val_count images_per_second gflops gemm_share"
    for name in [*names.split(), "checkpoint", "step_ms", "peak_rss_mb"]:
        run[name] = None  # type: ignore[literal-required]
    if step == 0:
        run["seconds"] = None
    run["step_loss"] = run["step_loss"][:step]
    run["history"] = [row for row in run["history"] if row["step"] <= step]
    run |= {"status": status, "message": message}
