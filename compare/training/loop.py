"""The training loop of every command that trains: run_all, benchmark, launch, search, transfer and the bug zoo.

A `Training` holds how far one has come; `begin` sets one up, and `train` takes it to its end, chunk by chunk. It may
stop early (``patience``) and may keep its best state (``keep_best``). Both go by the validation accuracy, and of equal
ones the first is the best; the test images decide nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any

import numpy as np

from compare import tracks
from compare.config import Config
from compare.data import Data, eval_batches
from compare.data.loaders import BatchIterator
from compare.data.stream import IndexSampler
from compare.errors import UserError
from compare.machine import disturbance
from compare.machine.disturbance import Disturbance
from compare.training.checks import require_finite
from compare.training.clocks import Stopwatch, Timings
from compare.training.steps import Plan
from compare.weights import energy
from compare.workers.protocol import Emit, Event
from numpy_nn import tree


@dataclasses.dataclass(frozen=True)
class SavedState:
    """The contents of a checkpoint: a copy of the state, everything that was reported up to it, its evaluation."""

    snapshot: tree.Tree
    progress: Event  # what `Training.resume` needs
    metrics: Event  # of the evaluation at this step, {} if there was none
    energy_threshold: Event | None  # energy score of images like those of the training; None if it is not known

    @property
    def step(self) -> int:
        """Updates that led to it."""
        return int(self.snapshot["step"])


@dataclasses.dataclass
class Training:
    """A training in progress: its state, how far it has come, and its best evaluation so far."""

    config: Config
    track: tracks.Track
    data: Data
    schedule: Plan
    state: Any
    arguments: dict[str, Any]  # of `init_state`, the snapshot aside
    timings: Timings
    parameters: int
    step: int = 0
    history: list[Event] = dataclasses.field(default_factory=list)  # the evaluations
    step_loss: list[float] = dataclasses.field(default_factory=list)
    best: Event = dataclasses.field(default_factory=dict)  # the first evaluation of the highest validation accuracy
    best_state: SavedState | None = None  # the state at `best`, if `keep_best`
    waited: int = 0  # evaluations since `best`
    seconds_before: float = 0.0  # of training, before it was resumed from another run's checkpoint
    memory: Event = dataclasses.field(default_factory=dict)
    saved_step: int = -1  # step of this run's newest checkpoint
    resumed: list[Event] = dataclasses.field(default_factory=list)  # at which step, from which checkpoint
    alone: bool = True  # no other process has to take part in what this one computes
    remark: str | None = None  # what the report says of a run that has nothing else to say
    disturbance: Disturbance | None = None  # what other programs did while this process trained

    @property
    def stopped_early(self) -> bool:
        """Whether ``patience`` evaluations have passed without a better one, and steps are left."""
        patience = self.config.patience
        return patience is not None and self.waited >= patience and self.step < self.schedule.steps

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.stopped_early or self.step == self.schedule.steps

    @property
    def epoch(self) -> float:
        """Passes over the training images."""
        return self.step * self.config.batch_size / len(self.data.train_x)

    @property
    def last(self) -> Event:
        """The last evaluation, {} before the first."""
        return self.history[-1] if self.history else {}

    @cached_property
    def batches(self) -> BatchIterator:
        """The batches of the steps to come. The loader starts on first access."""
        config = self.config
        sampler = IndexSampler(
            seed=config.seed,
            batch_size=config.batch_size,
            train_size=len(self.data.train_x),
            k=self.schedule.chunk,
            first=self.step,
            stop=self.schedule.steps,
        )
        return BatchIterator(self.dataset_on_device or self.data, sampler, loader=config.loader, augment=config.augment)

    @property
    def dataset_on_device(self) -> Any:
        """The training images on an accelerator, indexed like a `Data`; None where they stay in main memory."""
        config, data = self.config, self.data
        if config.device == "cpu" or config.loader != "memory" or config.augment:
            return None
        return self.track.place_dataset(self.state, data.train_x, data.train_y)

    def chunk(self) -> Event:
        """Take the next chunk of steps and return its event; raise UserError if a loss is not finite."""
        config, k = self.config, self.schedule.chunk
        with self.timings.chunks.lap():
            with self.timings.input.lap():
                x, y = next(self.batches)
            self.state, metrics = self.track.train_steps(self.state, x, y)
            self.track.synchronize(self.state)
        loss, correct, lr = (np.asarray(metrics[name], np.float64) for name in ("loss", "correct", "lr"))
        self.step_loss += loss.tolist()
        require_finite(loss, self.step, config)
        self.step += k
        return {
            "event": "chunk",
            "step": self.step,
            "loss": loss.tolist(),
            "accuracy": correct.sum() / (k * config.batch_size * self.data.labels_per_example),
            "lr": float(lr[-1]),
            "images_per_second": k * config.batch_size / self.timings.chunks.laps[-1],
        }

    def evaluation(self, chunk: Event) -> Event:
        """Evaluate after a chunk, keep the state if it is the best, and return the event: a row of the history."""
        config, watch = self.config, self.timings.evaluations
        row = {
            "step": self.step,
            "epoch": self.epoch,
            "train_loss": float(np.mean(chunk["loss"])),
            **evaluate(self.track, self.state, self.data, batch_size=config.eval_batch_size, watch=watch),
            "lr": chunk["lr"],
            "seconds": self.seconds_before + self.timings.chunks.work,
        }
        losses = [loss for loss in (row["val_loss"], row["test_loss"]) if loss is not None]
        require_finite(np.array(losses), self.step, config)  # the last update is in no training loss yet
        self.history.append(row)
        self.waited += 1
        if not self.best or (row["val_accuracy"] or 0.0) > (self.best["val_accuracy"] or 0.0):
            self.best, self.waited = row, 0
            if config.keep_best:
                self.best_state = self.saved_state()
        return {"event": "eval", **row}

    def saved_state(self) -> SavedState:
        """A copy of everything that a checkpoint of this step holds."""
        evaluated = self.last if self.last.get("step") == self.step else {}
        names = ("val_loss", "val_accuracy", "test_loss", "test_accuracy")
        progress = {
            "history": list(self.history),
            "step_loss": list(self.step_loss),
            "best": self.best,
            "waited": self.waited,
            "clocks": self.timings.to_json(),
            "memory": self.memory,
            "resumed": list(self.resumed),
        }
        metrics = {name: evaluated[name] for name in names if evaluated.get(name) is not None}
        return SavedState(self.track.to_snapshot(self.state), progress, metrics, self.energy_threshold())

    def energy_threshold(self) -> Event | None:
        """The energy score of images like those of the training; None where others would have to take part."""
        logits, batch_size = partial(self.track.logits, self.state), self.config.eval_batch_size
        return energy.measured(logits, self.data, batch_size=batch_size) if self.alone else None

    def resume(self, progress: Event, *, same_run: bool) -> None:
        """Continue from the progress of a checkpoint; from its clocks and memory only if it is of the same run."""
        self.history, self.step_loss = list(progress["history"]), list(progress["step_loss"])
        self.best, self.waited, self.resumed = progress["best"], progress["waited"], list(progress["resumed"])
        if same_run:
            self.timings.resume(progress["clocks"])
            self.memory = progress["memory"]
        elif self.history:
            self.seconds_before = self.last["seconds"]

    def result(self) -> Event:
        """The figures of the result: of the best state if it is kept and the training finished, else of the last."""
        kept = self.best_state if self.finished else None
        row = self.last if kept is None else self.best
        message = self.remark
        if self.stopped_early:
            message = f"stopped early: best validation accuracy at step {self.best['step']:,}"
        elif not self.finished:
            message = f"stopped after step {self.step:,} of {self.schedule.steps:,}"
        return {
            **{name: row.get(name) for name in ("test_loss", "test_accuracy", "val_loss", "val_accuracy")},
            **self.timings.figures(chunk=self.schedule.chunk, batch_size=self.config.batch_size),
            "status": "finished" if self.finished else "interrupted",
            "message": message,
            "parameters": self.parameters,
            "steps": self.step,
            "best_step": None if kept is None else row["step"],
            "resumed": self.resumed,
            "disturbance": self.disturbance,
            "epochs": self.epoch,
            "chunk": self.schedule.chunk,
            "test_count": self.data.test_y.size if row else None,
            "val_count": self.data.val_y.size if row else None,
        }


def begin(
    track: tracks.Track,
    config: Config,
    data: Data,
    snapshot: tree.Tree,
    *,
    schedule: Plan,
    arguments: Mapping[str, Any],
    timings: Timings | None = None,
) -> Training:
    """A training whose state is the snapshot's; ``arguments`` are those of ``init_state``, mean and std aside.

    Raises UserError where the snapshot or an argument does not fit the network.
    """
    timings, given = timings or Timings(), {**arguments, "mean": data.mean, "std": data.std}
    with timings.clock("set-up"):
        try:
            state = track.init_state(snapshot, **given)
        except ValueError as error:
            raise UserError(str(error)) from error
        track.synchronize(state)
    return Training(config, track, data, schedule, state, given, timings, tree.count(snapshot["params"]))


def train(
    training: Training,
    emit: Emit = lambda event: None,
    *,
    stop: Callable[[], bool] = lambda: False,
    save: Callable[[], object] = lambda: None,
) -> None:
    """Train to the end, or until ``stop()`` after a chunk; ``emit`` every chunk and evaluation, ``save()`` after each.

    Raises UserError if a loss is not finite.
    """
    with training.timings.clock("data"):
        batches = training.batches
    before = disturbance.counters()  # in the process that trains: what it and its children use is no disturbance
    with batches:
        while not training.finished and not stop():
            chunk = training.chunk()
            emit(chunk)
            if training.step in training.schedule.evaluations:
                emit(training.evaluation(chunk))
            save()
    training.disturbance = disturbance.between(before, disturbance.counters())
    training.disturbance["step_spread"] = disturbance.spread(training.timings.chunks.steady)


def evaluate(track: tracks.Track, state: Any, data: Data, *, batch_size: int, watch: Stopwatch) -> Event:
    """Loss and accuracy over all validation and all test labels, None where there are none: ``val_loss`` and so on.

    Raises AssertionError if the track did not count every label.
    """
    figures = {}
    for split, x, y in (("val", data.val_x, data.val_y), ("test", data.test_x, data.test_y)):
        sums = {"loss_sum": 0.0, "correct": 0.0, "count": 0.0}
        for batch in eval_batches(x, y, batch_size):
            with watch.lap():
                metrics = track.eval_batch(state, *batch)
                sums = {name: value + float(metrics[name]) for name, value in sums.items()}
        if sums["count"] != y.size:
            raise AssertionError(f"{y.size} {split} labels, but {sums['count']:.0f} were counted")
        figures[f"{split}_loss"] = sums["loss_sum"] / y.size if y.size else None
        figures[f"{split}_accuracy"] = sums["correct"] / y.size if y.size else None
    return figures
