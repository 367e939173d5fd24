"""Checkpoints: one tree for all tracks, on disk by Orbax. The only importer of orbax."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from compare.errors import UserError
from numpy_nn.tree import Tree, tree_map


class CheckpointError(UserError):
    """A checkpoint that is absent, damaged or of something else."""


def save(directory: Path, step: int, snapshot: Tree, meta: Mapping[str, Any]) -> Path:
    """Write ``directory/<step>``: the snapshot and what it is; whole or absent, never half.

    Returns the folder of the checkpoint.
    """
    with ocp.CheckpointManager(directory.resolve(), options=ocp.CheckpointManagerOptions(max_to_keep=None)) as manager:
        # Orbax has no empty trees: a part without leaves is left out and put back by restore
        tree = {name: part for name, part in snapshot.items() if not (isinstance(part, Mapping) and not part)}
        items = ocp.args.Composite(
            snapshot=ocp.args.StandardSave(tree_map(np.asarray, tree)), meta=ocp.args.JsonSave(dict(meta))
        )
        manager.save(step, args=items, force=True)
        manager.wait_until_finished()
        return directory / str(step)


def restore(directory: Path, step: int | None = None) -> tuple[Tree, dict[str, Any]]:
    """Read the snapshot and its metadata at ``step``, the newest by default.

    Raises CheckpointError where there is none.
    """
    if not directory.is_dir():
        raise CheckpointError(f"no checkpoint folder at {directory}")
    with ocp.CheckpointManager(directory.resolve()) as manager:
        step = manager.latest_step() if step is None else step
        if step is None or step not in manager.all_steps():
            raise CheckpointError(f"{directory} holds steps {list(manager.all_steps())}, not {step}")
        items = manager.restore(
            step, args=ocp.args.Composite(snapshot=ocp.args.StandardRestore(), meta=ocp.args.JsonRestore())
        )
    return {"params": {}, "stats": {}} | tree_map(np.asarray, items["snapshot"]), dict(items["meta"])
