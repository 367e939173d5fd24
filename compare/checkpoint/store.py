"""Checkpoints: one tree for all tracks, on disk by Orbax. The only importer of orbax.

Orbax writes them; they are read without it, see ``compare.checkpoint.reader``.

A run's folder holds one folder for each checkpoint that is kept, named by its step:

    cnn-mnist-jax-seed0/858/snapshot/   params, stats, opt, ema, step: arrays, as numpy_nn.tree describes them
                            meta/       description: format, config, track, step, metrics, digest, ... (JSON)
                            progress/   what else is needed to resume: history, losses, clocks (JSON)

Each is complete or absent: Orbax writes under another name and renames at the end. It holds
only arrays and JSON, so nothing in it can be executed.

    python -m compare.checkpoint ls DIR        every checkpoint below a folder, a line each
    python -m compare.checkpoint show DIR      describe one
    python -m compare.checkpoint verify DIR    read and check every one; exit status 1 if any is damaged
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compare.checkpoint.digests import array_digests, digest, not_finite
from compare.checkpoint.reader import FORMAT, PARTS, reason, verified
from compare.checkpoint.reader import Checkpoint as Checkpoint
from compare.checkpoint.reader import CheckpointError as CheckpointError
from numpy_nn.tree import Tree, from_leaves, leaves, tree_map

DELETED = "deleted"  # a checkpoint is moved to this folder of the run before it is deleted, and never half there


# --- writing ----------------------------------------------------------------------------------------------------------


class Writer:
    """Writes the checkpoints of one run into its folder, in the background: a context manager.

    Keeps the last ``keep`` checkpoints and the one with the highest validation accuracy (the earliest of
    ties); keeps all if ``keep`` is None.
    """

    def __init__(self, directory: Path, *, keep: int | None = None) -> None:
        import jax  # takes a second, and memory
        import orbax.checkpoint as ocp
        from orbax.checkpoint.checkpoint_managers import preservation_policy

        self.directory, self._kinds = directory, ocp.args
        own = jax.process_index()
        policies = [preservation_policy.LatestN(keep), preservation_policy.BestN(n=1, get_metric_fn=_rank)]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
            best_fn=_rank,  # has the metrics written down; who stays is the policy's decision
            todelete_subdir=DELETED,
            create=False,  # Orbax makes no folder for some of several processes; this one writes alone
            multiprocessing_options=ocp.options.MultiprocessingOptions(own, {own}),
            cleanup_tmp_directories=True,
            save_root_metadata=False,
        )
        with self._explained():
            directory.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(directory / DELETED, ignore_errors=True)
            for stray in {each for each in directory.iterdir() if each.name.isdecimal()} - set(steps(directory)):
                set_aside(stray)  # Orbax would take it for a checkpoint
            self._manager = ocp.CheckpointManager(directory.resolve(), options=options)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def save(
        self, step: int, snapshot: Tree, meta: Mapping[str, Any], progress: Mapping[str, Any] | None = None
    ) -> Path:
        """Begin to write ``directory/<step>`` when the previous save is complete; return its path.

        The arrays must not change any more. The best checkpoint is that of the highest
        ``meta["metrics"]["val_accuracy"]``; one without it is never the best. Raises CheckpointError if the path
        exists, if an array holds a NaN, or if this checkpoint or the previous one cannot be written.
        """
        path = self.directory / str(step)
        if path.exists():
            raise CheckpointError(f"{path} exists: remove it, or choose another folder")
        snapshot = tree_map(np.asarray, from_leaves(leaves(snapshot)))  # Orbax has no empty branches
        if problem := not_finite(snapshot):
            raise CheckpointError(f"{path} was not saved: {problem}; try a lower learning rate")
        progress = dict(progress or {})
        meta = {**meta, "format": FORMAT, "step": step, "arrays": array_digests(snapshot)}
        meta["digest"] = digest(meta, progress)
        items = self._kinds.Composite(
            snapshot=self._kinds.StandardSave(snapshot),
            meta=self._kinds.JsonSave(meta),
            progress=self._kinds.JsonSave(progress),
        )
        with self._explained():
            self._manager.wait_until_finished()  # its thread moves old checkpoints to where they are removed now
            shutil.rmtree(self.directory / DELETED, ignore_errors=True)
            self._manager.save(step, args=items, metrics={"step": step, **meta.get("metrics", {})}, force=True)
        return path

    def close(self) -> None:
        """Wait until everything is on disk; raise CheckpointError if it cannot be written."""
        with self._explained():
            self._manager.close()
            shutil.rmtree(self.directory / DELETED, ignore_errors=True)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever a full or vanished disk makes of two libraries and a thread
            whole = newest(self.directory)
            raise CheckpointError(
                f"no checkpoint can be written to {self.directory} ({reason(error)}): free some space or choose "
                f"another folder; " + (f"the newest good one there is {whole.path}" if whole else "there is none yet")
            ) from error


def save(directory: Path, step: int, snapshot: Tree, meta: Mapping[str, Any]) -> Path:
    """Write the snapshot and its metadata to ``directory/<step>`` and return the path; nothing there is deleted."""
    with Writer(directory) as writer:
        return writer.save(step, snapshot, meta)


def _rank(metrics: Mapping[str, Any]) -> Any:
    """The key by which the best checkpoint is the maximum: validation accuracy, then the earlier step."""
    return metrics.get("val_accuracy", -1.0), -metrics["step"]


# --- reading ----------------------------------------------------------------------------------------------------------


def restore(path: Path, step: int | None = None) -> tuple[Tree, dict[str, Any]]:
    """The snapshot and its metadata; arguments and errors are those of :func:`read`.

    Given the folder of a run whose result is the best state, not the last, the best one is the default.
    """
    found = read(path, step)
    best = found.progress.get("best") or {}
    if best and step is None and found.path != path and found.meta["config"].get("keep_best"):
        found = read(path, best["step"])
    return found.snapshot, found.meta


def read(path: Path, step: int | None = None) -> Checkpoint:
    """Read and verify a checkpoint, given its own folder, or a run's and a step in it, the newest by default.

    Raises CheckpointError, which names the newest good checkpoint beside it, if it is absent or damaged.
    """
    path = locate(path, step)
    try:
        return verified(path)
    except CheckpointError as error:
        good = newest(path.parent, without=path)
        instead = f"the newest good checkpoint beside it is {good.path}" if good else "there is no good one beside it"
        raise CheckpointError(f"{error}; {instead}") from error


def locate(path: Path, step: int | None = None) -> Path:
    """The folder of a checkpoint, given itself or its run's folder; raise CheckpointError if there is none."""
    found = steps(path)
    if found and step is None:
        return found[-1]
    if found and path / str(step) in found:
        return path / str(step)
    if not found and path.name.isdecimal() and path.is_dir() and step in (None, int(path.name)):
        return path
    if found:
        raise CheckpointError(f"{path} has no step {step}: it holds {', '.join(each.name for each in found)}")
    below = sorted({str(each.parent) for each in find(path)})
    if below:
        raise CheckpointError(f"{path} holds the checkpoints of several runs: choose one of {', '.join(below)}")
    beside = [each.name for each in steps(path.parent)] if path.name.isdecimal() else []
    hint = f"there are steps {', '.join(beside)}" if beside else "give the folder of a run or of one of its steps"
    raise CheckpointError(f"no checkpoint at {path}: {hint}")


def steps(directory: Path) -> list[Path]:
    """The folders of the checkpoints of a run, by step; they are not read."""
    if not directory.is_dir():
        return []
    found = (
        each for each in directory.iterdir() if each.name.isdecimal() and any((each / part).is_dir() for part in PARTS)
    )
    return sorted(found, key=lambda each: int(each.name))


def find(directory: Path) -> list[Path]:
    """Every checkpoint below a folder, or the folder itself if it is one; they are not read."""
    if directory.name.isdecimal() and not steps(directory):
        return [directory] if directory.is_dir() else []
    parts = (part for name in PARTS for part in directory.rglob(name))
    runs = sorted({part.parent.parent for part in parts if part.parent.name.isdecimal()})
    runs = [run for run in runs if run.name != DELETED]  # left by a process that was killed while deleting
    return [each for run in runs for each in steps(run)]


def newest(
    directory: Path, *, without: Path | None = None, damaged: Callable[[Path, CheckpointError], None] | None = None
) -> Checkpoint | None:
    """The newest good checkpoint of a run, read from newest to oldest; None if there is none.

    Those older than it are not read, nor is ``without``; ``damaged`` is called for each damaged one on the way.
    """
    for path in reversed(steps(directory)):
        if path == without:
            continue
        try:
            return verified(path)
        except CheckpointError as error:
            if damaged:
                damaged(path, error)
    return None


def set_aside(path: Path) -> Path:
    """Rename a damaged checkpoint to ``<step>.damaged``, which replaces an earlier one, and return the new path."""
    renamed = path.with_suffix(".damaged")
    shutil.rmtree(renamed, ignore_errors=True)
    return path.rename(renamed)
