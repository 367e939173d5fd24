"""Resuming from a checkpoint: a run's own newest good one, or one that the user names, of any track."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from compare.checkpoint import store
from compare.checkpoint.store import Checkpoint, CheckpointError
from compare.config import Config
from compare.data import Data
from compare.errors import UserError
from compare.training.checks import require_same_data, require_steps_left
from compare.training.loop import SavedState, Training
from compare.training.steps import plan
from compare.weights import energy
from compare.workers.protocol import Job
from numpy_nn import optim

Note = Callable[[str], None]
Find = Callable[[Job, Note], Checkpoint | None]


def find(job: Job, note: Note) -> Checkpoint | None:
    """The checkpoint from which a run begins; None is step 0.

    Damaged checkpoints of the run itself are renamed and noted, and the one before is taken: it leads to the same
    result in a little more time. Raises CheckpointError if one that the user named is damaged.
    """

    def set_aside(path: Path, error: CheckpointError) -> None:
        note(f"{error}; renamed to {store.set_aside(path).name}, resuming from what was saved before")

    found = store.newest(job.folder, damaged=set_aside)
    return store.read(job.resume_from) if job.resume_from and not found else found


def is_same_run(found: Checkpoint, job: Job) -> bool:
    """Whether the checkpoint is one of this very run."""
    return found.path.parent == job.folder


def require_fit(found: Checkpoint, job: Job, data: Data, *, steps: int) -> None:
    """Raise UserError unless the training can continue from this checkpoint, with this data, to so many steps."""
    if "step_loss" not in found.progress:
        raise UserError(
            f"{found.path} holds a network without a training state: predict with it, or fine-tune "
            "it with python -m compare.transfer"
        )
    require_same_data(found.path, found.meta, data)
    if not is_same_run(found, job):
        require_steps_left(found.path, found.step, steps)


def restore(training: Training, found: Checkpoint, job: Job, note: Note) -> None:
    """Set a training, whose state is the checkpoint's already, to the checkpoint's step, history and best state."""
    same_run = is_same_run(found, job)
    training.step, training.saved_step = found.step, found.step if same_run else -1
    training.resume(found.progress, same_run=same_run)
    change = schedule_change(found, job.config, train_size=len(training.data.train_x), steps=training.schedule.steps)
    if change and not same_run:
        note(change)
        training.remark = change
    training.resumed.append({"step": found.step, "checkpoint": str(found.path)})
    if job.config.keep_best and training.best:
        training.best_state = best_state(training.best["step"], found)
        if training.best_state is None:
            note(f"the best state, of step {training.best['step']:,}, is not next to {found.path}: selecting a new one")
            training.best, training.waited = {}, 0


def schedule_change(found: Checkpoint, config: Config, *, train_size: int, steps: int) -> str:
    """How the learning rate jumps where the schedule has another length than before; empty if it stays as it was."""
    then = Config.from_json(found.meta["config"])
    before = plan(then, train_size).steps

    def rate(config: Config, steps: int, step: int) -> float:
        return optim.schedule(config.schedule, lr=config.lr, steps=steps, **config.schedule_args)(step)

    last = rate(then, before, found.step - 1)
    if not found.step or rate(config, steps, found.step - 1) == last:
        return ""
    return (
        f"the schedule has {steps:,} steps instead of {before:,}: the learning rate changes from {last:.3g} to "
        f"{rate(config, steps, found.step):.3g}; --set schedule=constant --lr {last:.3g} would keep it"
    )


def best_state(step: int, found: Checkpoint) -> SavedState | None:
    """The best state so far: the checkpoint itself, or one beside it; None if that is absent or damaged."""
    try:
        best = found if step == found.step else store.read(found.path.parent, step)
    except CheckpointError:
        return None
    return SavedState(best.snapshot, best.progress, best.meta["metrics"], energy.stored(best.meta))
