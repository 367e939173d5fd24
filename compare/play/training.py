"""Train a network of the playground from the start for a few steps, in one track, while the page shows the curve."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from compare import networks, tracks
from compare.config import Config
from compare.errors import UserError
from compare.play.labelled import data_of
from compare.training import loop
from compare.training.steps import Plan
from compare.weights.network import Network
from compare.workers.protocol import Event

STEPS = 200
MOST_STEPS = 2000
CHUNK = 10  # steps between two points of the live curve
PAUSE = 0.002  # seconds in which a waiting answer gets its turn


@dataclasses.dataclass
class TrainingHere:
    """A training in a thread of its own; ``turn`` is held while it computes, and released after every chunk."""

    origin: str  # name of the network whose architecture and settings it has
    track: str
    steps: int
    turn: threading.Lock
    trained: Callable[[TrainingHere], None]  # is told when ``network`` is there
    state: str = "compiling"  # then training, evaluating, and at last finished, stopped or failed
    message: str = ""
    loss: list[float] = dataclasses.field(default_factory=list)  # of every step
    accuracy: list[float] = dataclasses.field(default_factory=list)  # of the training images of every chunk
    test_accuracy: float | None = None
    network: Network | None = None  # the trained one
    stopping: threading.Event = dataclasses.field(default_factory=threading.Event)
    thread: threading.Thread | None = None

    @property
    def name(self) -> str:
        """The name of the network that it makes."""
        return f"here/{self.origin.rpartition('/')[2].removesuffix('.npz')}-{self.track}"

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.state in ("compiling", "training", "evaluating")

    def to_json(self) -> dict[str, Any]:
        """What the page shows of it."""
        shown = ("origin", "name", "track", "steps", "state", "message", "loss", "accuracy", "test_accuracy")
        return {name: getattr(self, name) for name in shown} | {"running": self.running}

    def start(self, network: Network) -> None:
        """Start the thread; UserError if the network's settings or its dataset are not known."""
        config = config_of(network, self.steps)
        data = data_of(network)
        self.thread = threading.Thread(target=self._run, args=(network, config, data), daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Ask it to end after the current chunk."""
        self.stopping.set()

    def join(self) -> None:
        """Wait until it has ended."""
        if self.thread:
            self.thread.join()

    def _run(self, network: Network, config: Config, data: Any) -> None:
        try:
            with self.turn:
                self._train(network, config, data)
        except UserError as error:
            self.state, self.message = "failed", str(error)
        except Exception as error:  # the page must not wait for a thread that is gone
            self.state, self.message = "failed", f"{type(error).__name__}: {error}"
            raise

    def _train(self, network: Network, config: Config, data: Any) -> None:
        track = tracks.load(self.track)
        schedule = Plan(self.steps, math.gcd(self.steps, CHUNK), frozenset({self.steps}))
        first = networks.first_snapshot(config.model, config.model_args, np.random.default_rng(config.seed))
        arguments = tracks.state_arguments(config, self.track, steps=self.steps, threads=1)
        training = loop.begin(track, config, data, first, schedule=schedule, arguments=arguments)
        loop.train(training, self._hear, stop=self.stopping.is_set, save=self._pause)
        if not training.finished:
            self.state = "stopped"
            return
        snapshot = track.to_snapshot(training.state)
        threshold = training.energy_threshold()
        self.network = dataclasses.replace(
            network,
            params=snapshot.get("ema") or snapshot["params"],
            stats=snapshot.get("stats", {}),
            energy_threshold=threshold["score"] if threshold else None,
        )
        self.trained(self)
        self.state = "finished"

    def _hear(self, event: Event) -> None:
        if event["event"] == "chunk":
            self.loss += event["loss"]
            self.accuracy.append(event["accuracy"])
            self.state = "evaluating" if event["step"] == self.steps else "training"
        else:
            self.test_accuracy = event["test_accuracy"]

    def _pause(self) -> None:
        self.turn.release()
        time.sleep(PAUSE)
        self.turn.acquire()


def config_of(network: Network, steps: int) -> Config:
    """The settings that a network was trained with, for so many steps on one core; UserError if they are not known."""
    stored = network.meta.get("config", {})
    if "preset" not in stored:
        raise UserError("this network's file does not say how it was trained: train it with compare.run_all")
    changes = {"model": network.model, "model_args": network.args, "steps": steps, "precision": "float32"}
    changes |= {"device": "cpu", "devices": 1, "loader": "memory", "keep_best": False, "patience": None}
    return Config.from_json({**stored, **changes})
