"""Checkpoints: one tree for all tracks, on disk by Orbax. The only importer of orbax.

Orbax writes them; they are read without it, see ``stored``.

A run's folder holds one folder for each checkpoint that is kept, named by its step:

    cnn-mnist-jax-seed0/858/snapshot/   params, stats, opt, ema, step: arrays, as numpy_nn.tree describes them
                            meta/       what it is: format, config, track, step, metrics, digest, ... (JSON)
                            progress/   what a training needs to go on besides: history, losses, clocks (JSON)

Each is whole or absent: Orbax writes under another name and renames at the end. There are
arrays and JSON in it and nothing else, so nothing in it can be executed.

    python -m compare.checkpoint ls DIR        every checkpoint below a folder, a line each
    python -m compare.checkpoint show DIR      what one is
    python -m compare.checkpoint verify DIR    read every one and check it; exit status 1 if any is damaged
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compare.checkpoint.digests import array_digests, digest, not_finite
from compare.checkpoint.reader import FORMAT, PARTS, reason, verified
from compare.checkpoint.reader import Checkpoint as Checkpoint
from compare.checkpoint.reader import CheckpointError as CheckpointError
from numpy_nn.tree import Tree, from_leaves, leaves, tree_map

OLD = "deleted"  # a folder in a run's folder for what is being deleted, so that no checkpoint is ever half there


# --- writing ----------------------------------------------------------------------------------------------------------


class Writer:
    """Writes the checkpoints of one run into its folder, in the background: a context manager.

    The last ``keep`` stay, and the one of the highest validation accuracy, the first of
    equals; all if ``keep`` is None.
    """

    def __init__(self, directory: Path, *, keep: int | None = None) -> None:
        import jax  # a second, and memory
        import orbax.checkpoint as ocp
        from orbax.checkpoint.checkpoint_managers import preservation_policy

        self.directory, self._kinds = directory, ocp.args
        own = jax.process_index()
        policies = [preservation_policy.LatestN(keep), preservation_policy.BestN(n=1, get_metric_fn=_rank)]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
            best_fn=_rank,  # has the metrics written down; who stays is the policy's decision
            todelete_subdir=OLD,
            create=False,  # Orbax makes no folder for some of several processes; this one writes alone
            multiprocessing_options=ocp.options.MultiprocessingOptions(own, {own}),
            cleanup_tmp_directories=True,
            save_root_metadata=False,
        )
        with self._explained():
            directory.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(directory / OLD, ignore_errors=True)
            self._manager = ocp.CheckpointManager(directory.resolve(), options=options)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def save(
        self, step: int, snapshot: Tree, meta: Mapping[str, Any], progress: Mapping[str, Any] | None = None
    ) -> Path:
        """Begin to write ``directory/<step>``, after the one before is done; the arrays must not change any more.

        ``meta["metrics"]["val_accuracy"]`` decides which checkpoint is the best; without it, this one is not.
        Raises CheckpointError if it is there already, or holds a NaN, or if it or the one before cannot be written.
        """
        path = self.directory / str(step)
        if path.exists():
            raise CheckpointError(f"{path} exists: remove it, or choose another folder")
        snapshot = tree_map(np.asarray, from_leaves(leaves(snapshot)))  # Orbax has no empty branches
        if problem := not_finite(snapshot):
            raise CheckpointError(f"{path} is not saved: {problem}; try a lower learning rate")
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
            shutil.rmtree(self.directory / OLD, ignore_errors=True)
            self._manager.save(step, args=items, metrics={"step": step, **meta.get("metrics", {})}, force=True)
        return path

    def close(self) -> None:
        """Return when everything is on disk."""
        with self._explained():
            self._manager.close()
            shutil.rmtree(self.directory / OLD, ignore_errors=True)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever a full or vanished disk makes of two libraries and a thread
            whole = newest_good(self.directory)
            raise CheckpointError(
                f"no checkpoint can be written to {self.directory} ({reason(error)}): free some space or choose "
                f"another folder; " + (f"whole and the newest there is {whole}" if whole else "there is none yet")
            ) from error


def save(directory: Path, step: int, snapshot: Tree, meta: Mapping[str, Any]) -> Path:
    """Write ``directory/<step>`` and return it: the snapshot and what it is. Nothing there is deleted."""
    with Writer(directory) as writer:
        return writer.save(step, snapshot, meta)


def _rank(metrics: Mapping[str, Any]) -> Any:
    """What the best checkpoint has most of: validation accuracy; of equals, the first is the best."""
    return metrics.get("val_accuracy", -1.0), -metrics["step"]


# --- reading ----------------------------------------------------------------------------------------------------------


def restore(path: Path, step: int | None = None) -> tuple[Tree, dict[str, Any]]:
    """The snapshot and its metadata; arguments and errors are those of :func:`read`.

    Of a run whose result is the best state, not the last, that one is the default.
    """
    found = read(path, step)
    best = found.progress.get("best") or {}
    if best and step is None and found.path != path and found.meta["config"].get("keep_best"):
        found = read(path, best["step"])
    return found.snapshot, found.meta


def read(path: Path, step: int | None = None) -> Checkpoint:
    """Read and verify a checkpoint: its own folder, or a run's and a step in it, the newest by default.

    Raises CheckpointError if it is not there or not whole, and says which good one there is instead.
    """
    path = locate(path, step)
    try:
        return verified(path)
    except CheckpointError as error:
        good = newest_good(path.parent)
        instead = f"the newest good checkpoint beside it is {good}" if good else "there is no good one beside it"
        raise CheckpointError(f"{error}; {instead}") from error


def locate(path: Path, step: int | None = None) -> Path:
    """The folder of a checkpoint, given itself or its run's folder."""
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
    """The checkpoints in a run's folder, by step; not looked into."""
    if not directory.is_dir():
        return []
    return sorted((each for each in directory.iterdir() if each.name.isdecimal()), key=lambda each: int(each.name))


def find(directory: Path) -> list[Path]:
    """Every checkpoint below a folder, or the folder itself if it is one; not looked into."""
    if directory.name.isdecimal() and not steps(directory):
        return [directory] if directory.is_dir() else []
    parts = (part for name in PARTS for part in directory.rglob(name))
    runs = sorted({part.parent.parent for part in parts if part.parent.name.isdecimal()})
    runs = [run for run in runs if run.name != OLD]  # a process was killed while it deleted something
    return [each for run in runs for each in steps(run)]


def newest_good(directory: Path) -> Path | None:
    """The newest checkpoint in a run's folder that is whole."""
    for path in reversed(steps(directory)):
        with contextlib.suppress(CheckpointError):
            return verified(path).path
    return None


def set_damaged_aside(directory: Path) -> list[str]:
    """Rename every damaged checkpoint of a run to ``<step>.damaged``; returns what was wrong with each."""
    problems = []
    for path in steps(directory):
        try:
            verified(path)
        except CheckpointError as error:
            shutil.rmtree(path.with_suffix(".damaged"), ignore_errors=True)
            path.rename(path.with_suffix(".damaged"))
            problems.append(str(error))
    return problems
