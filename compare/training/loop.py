"""A training chunk by chunk: what it reports, when it ends, what its result is, and what it can go on from.

It may stop early (``patience``) and may keep its best state (``keep_best``). Both go by the
validation accuracy, the first of equals; the test images have no say in anything.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any

import numpy as np

from compare import tracks
from compare.config import Config
from compare.data import Data, eval_batches, loaders
from compare.errors import UserError
from compare.training.clocks import Stopwatch, Timings
from compare.training.steps import Plan
from compare.workers.protocol import Event
from numpy_nn import tree

NOT_FINITE = "the loss became"  # nan, or inf: how the message begins


@dataclasses.dataclass(frozen=True)
class Moment:
    """What a checkpoint is made of: a copy of the state, and all that was reported on the way to it."""

    snapshot: tree.Tree
    progress: Event
    metrics: Event  # of the evaluation at this step, if there was one

    @property
    def step(self) -> int:
        """Updates that led to it."""
        return int(self.snapshot["step"])


@dataclasses.dataclass
class Training:
    """A training under way: how far it has come, and the best evaluation on its way."""

    config: Config
    track: tracks.Track
    data: Data
    schedule: Plan
    state: Any
    timings: Timings
    parameters: int
    step: int = 0
    history: list[Event] = dataclasses.field(default_factory=list)  # the evaluations
    step_loss: list[float] = dataclasses.field(default_factory=list)
    best: Event = dataclasses.field(default_factory=dict)  # the highest validation accuracy, the first of equals
    best_moment: Moment | None = None  # the state then, if it is to be kept
    waited: int = 0  # evaluations since then
    seconds_before: float = 0.0  # of training, on another's clock
    memory: Event = dataclasses.field(default_factory=dict)
    on_disk: int = -1  # step of this run's newest checkpoint
    resumed: list[Event] = dataclasses.field(default_factory=list)  # at which step, from which checkpoint

    @property
    def early(self) -> bool:
        """Has there been no better evaluation for as long as the config is patient?"""
        patience = self.config.patience
        return patience is not None and self.waited >= patience and self.step < self.schedule.steps

    @property
    def finished(self) -> bool:
        """Is there nothing more to train?"""
        return self.early or self.step == self.schedule.steps

    @property
    def epoch(self) -> float:
        """Passes over the training images."""
        return self.step * self.config.batch_size / len(self.data.train_x)

    @property
    def row(self) -> Event:
        """The last evaluation."""
        return self.history[-1] if self.history else {}

    @cached_property
    def feed(self) -> loaders.Feed:
        """The images of the steps to come: the loader, which starts when it is first asked for."""
        order = loaders.Order(
            seed=self.config.seed,
            batch_size=self.config.batch_size,
            train_size=len(self.data.train_x),
            k=self.schedule.chunk,
            first=self.step,
            stop=self.schedule.steps,
        )
        return loaders.start(self.config.loader, self.on_device or self.data, order)

    @property
    def on_device(self) -> Any:
        """The training images on an accelerator, if it is to have them all; None otherwise."""
        config, data = self.config, self.data
        if config.device == "cpu" or config.loader != "memory" or config.augment:
            return None
        return self.track.place_dataset(self.state, data.train_x, data.train_y)

    def chunk(self) -> Event:
        """Take the next steps and report them."""
        config, k = self.config, self.schedule.chunk
        with self.timings.chunks.lap():
            with self.timings.input.lap():
                x, y = self.data.augmented(*next(self.feed), config.augment, seed=config.seed, step=self.step)
            self.state, metrics = self.track.train_steps(self.state, x, y)
            self.track.synchronize(self.state)
        loss, correct, lr = (np.asarray(metrics[name], np.float64) for name in ("loss", "correct", "lr"))
        require_finite(loss, self.step, config)
        self.step += k
        self.step_loss += loss.tolist()
        return {
            "event": "chunk",
            "step": self.step,
            "loss": loss.tolist(),
            "accuracy": correct.sum() / (k * config.batch_size),
            "lr": float(lr[-1]),
            "images_per_second": k * config.batch_size / self.timings.chunks.laps[-1],
        }

    def evaluation(self, chunk: Event) -> Event:
        """Evaluate after a chunk, keep what is best, and report: a row of the history."""
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
        require_finite(np.array(losses), self.step, config)  # the last update may have ruined it
        self.history.append(row)
        self.waited += 1
        if not self.best or (row["val_accuracy"] or 0.0) > (self.best["val_accuracy"] or 0.0):
            self.best, self.waited = row, 0
            if config.keep_best:
                self.best_moment = self.moment()
        return {"event": "eval", **row}

    def moment(self) -> Moment:
        """Everything that a checkpoint of this step needs, copied."""
        evaluated = self.row if self.row.get("step") == self.step else {}
        kinds = ("val_loss", "val_accuracy", "test_loss", "test_accuracy")
        progress = {
            "history": list(self.history),
            "step_loss": list(self.step_loss),
            "best": self.best,
            "waited": self.waited,
            "clocks": self.timings.to_json(),
            "memory": self.memory,
            "resumed": self.resumed,
        }
        metrics = {name: evaluated[name] for name in kinds if evaluated.get(name) is not None}
        return Moment(self.track.to_snapshot(self.state), progress, metrics)

    def go_on(self, progress: Event, *, own: bool) -> None:
        """Take over what was reported before; the clocks and the memory only if they were this run's own."""
        self.history, self.step_loss = list(progress["history"]), list(progress["step_loss"])
        self.best, self.waited, self.resumed = progress["best"], progress["waited"], list(progress["resumed"])
        if own:
            self.timings.go_on(progress["clocks"])
            self.memory = progress["memory"]
        elif self.history:
            self.seconds_before = self.row["seconds"]

    def result(self) -> Event:
        """The figures of the trained state: the best one's if it is kept, else the last one's."""
        kept = self.best_moment if self.finished else None
        row = self.row if kept is None else self.best
        message = None
        if self.early:
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
            "epochs": self.epoch,
            "chunk": self.schedule.chunk,
            "test_count": len(self.data.test_y) if row else None,
            "val_count": len(self.data.val_y) if row else None,
        }


def require_validation(config: Config, data: Data) -> None:
    """Raise UserError where a best state is asked for and cannot be told."""
    if (config.patience is not None or config.keep_best) and not len(data.val_y):
        raise UserError(
            "patience and keep_best choose by validation images, and there are none: choose a larger val_size"
        )


def require_images(config: Config, data: Data) -> None:
    """Raise UserError where the network takes other images, or tells other classes apart, than there are."""
    shape, classes = (
        tuple(tracks.model_argument(config.model, config.model_args, "input_shape")),
        tracks.model_argument(config.model, config.model_args, "classes"),
    )
    there = data.train_x.shape[1:]
    if (shape, classes) != (there, len(data.classes)):
        takes, given = ("x".join(map(str, sides)) for sides in (shape, there))
        raise UserError(
            f"{config.preset} takes images of {takes} in {classes} classes; those of {data.name} are {given}, "
            f"in {len(data.classes)}: choose another preset or dataset"
        )


def require_finite(loss: np.ndarray, first_step: int, config: Config) -> None:
    """Raise UserError at the first loss that is NaN or infinite."""
    bad = np.flatnonzero(~np.isfinite(loss))
    if len(bad):
        raise UserError(
            f"{NOT_FINITE} {loss[bad[0]]} at step {first_step + bad[0]:,}; "
            f"try a lower learning rate than --lr {config.lr:g}"
        )


def evaluate(track: tracks.Track, state: Any, data: Data, *, batch_size: int, watch: Stopwatch) -> Event:
    """Loss and accuracy over all of the validation and the test images; sums are added, and divided once."""
    figures = {}
    for split, x, y in (("val", data.val_x, data.val_y), ("test", data.test_x, data.test_y)):
        sums = {"loss_sum": 0.0, "correct": 0.0, "count": 0.0}
        for batch in eval_batches(x, y, batch_size):
            with watch.lap():
                metrics = track.eval_batch(state, *batch)
                sums = {name: value + float(metrics[name]) for name, value in sums.items()}
        if sums["count"] != len(y):
            raise AssertionError(f"{len(y)} {split} images, but {sums['count']:.0f} were counted")
        figures[f"{split}_loss"] = sums["loss_sum"] / len(y) if len(y) else None
        figures[f"{split}_accuracy"] = sums["correct"] / len(y) if len(y) else None
    return figures
