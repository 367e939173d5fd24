"""Going on from a checkpoint: a run's own newest good one, or one that the user names, of whatever track."""

from __future__ import annotations

from collections.abc import Callable

from compare.checkpoint import store
from compare.checkpoint.store import Checkpoint, CheckpointError
from compare.config import Config
from compare.data import Data
from compare.errors import UserError
from compare.training.loop import Moment, Training
from compare.training.steps import plan
from compare.workers.protocol import Job
from numpy_nn import optim

Note = Callable[[str], None]
Find = Callable[[Job, Note], Checkpoint | None]


def find(job: Job, note: Note) -> Checkpoint | None:
    """Where a run begins; None is at step 0.

    Damaged checkpoints of the run itself are set aside, with a note: the one before does as well, in a little
    more time. A damaged one that the user named is refused.
    """
    for problem in store.set_damaged_aside(job.folder):
        note(f"{problem}; set aside, and going on from what was saved before")
    if store.steps(job.folder):
        return store.read(job.folder)
    return store.read(job.resume_from) if job.resume_from else None


def is_own(found: Checkpoint, job: Job) -> bool:
    """Is it a checkpoint of this very run?"""
    return found.path.parent == job.folder


def require_fit(found: Checkpoint, job: Job, data: Data, *, steps: int) -> None:
    """Raise UserError unless one can train on from this checkpoint, with this data, to so many steps."""
    if "step_loss" not in found.progress:
        raise UserError(
            f"{found.path} holds a network and no training to go on with: predict with it, or learn something new "
            "from it with python -m compare.transfer"
        )
    then, now = found.meta["data"]["digest"], data.digest
    if then != now:
        raise UserError(
            f"{found.path} was trained on other data: {data.name} had SHA-256 {then[:12]}… then and has {now[:12]}… "
            "now; restore the data, or train from the start"
        )
    if found.step >= steps and not is_own(found, job):
        raise UserError(f"{found.path} is after {found.step:,} steps and {steps:,} are wanted: give more with --steps")


def go_on(training: Training, found: Checkpoint, job: Job, note: Note) -> None:
    """Set a training, whose state is the checkpoint's already, to where that left off."""
    own = is_own(found, job)
    training.step, training.on_disk = found.step, found.step if own else -1
    training.go_on(found.progress, own=own)
    change = schedule_change(found, job.config, train_size=len(training.data.train_x), steps=training.schedule.steps)
    if change and not own:
        note(change)
    training.resumed.append({"step": found.step, "checkpoint": str(found.path)})
    if job.config.keep_best and training.best:
        training.best_moment = best_moment(training.best["step"], found)
        if training.best_moment is None:
            note(f"the best state, of step {training.best['step']:,}, is not beside {found.path}: chosen anew")
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
        f"the schedule is now of {steps:,} steps, of {before:,} before: the learning rate goes from {last:.3g} to "
        f"{rate(config, steps, found.step):.3g}; --set schedule=constant --lr {last:.3g} would keep it"
    )


def best_moment(step: int, found: Checkpoint) -> Moment | None:
    """The best state so far: the checkpoint itself, or one beside it; None if that is lost."""
    try:
        best = found if step == found.step else store.read(found.path.parent, step)
    except CheckpointError:
        return None
    return Moment(best.snapshot, best.progress, best.meta["metrics"])
