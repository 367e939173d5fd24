"""Transfer learning: what was learned on one task, taken along to another of which few labels are known.

Three ways to learn the new task, the same in every track, from the same first weights, on the same batches:

    scratch        nothing is taken along: first weights as ever
    linear probe   the features stay as they are, and only a new output layer is trained on them
    fine-tuning    a new output layer, and behind it everything goes on learning, the earlier the slower

The two sorts of transfer after Yosinski, Clune, Bengio & Lipson 2014, arXiv:1411.1792; rates that fall towards
the input after Howard & Ruder 2018, arXiv:1801.06146.

    python -m compare.transfer digits                                     offline, all three tracks
    python -m compare.transfer to fashion-mnist --pretrained resnet20:FILE.th
    python -m compare.transfer to folder:PHOTOS --pretrained torchvision:resnet18
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from compare import tracks
from compare.data import Data, eval_batches, load
from compare.data.subsets import few, fit_images, only
from compare.errors import UserError
from compare.weights.network import Network
from compare.workers.protocol import Emit, Event
from numpy_nn.models import MODELS
from numpy_nn.tree import Tree, require_same, tree_map

METHODS = ("scratch", "linear probe", "fine-tuning")
PRETRAINED = "pretraining"  # the accuracy on the old task, among the rows of the new one
EARLIEST = 0.1  # factor of the first layer's learning rate in fine-tuning


@dataclass(frozen=True)
class Recipe:
    """How a network is trained."""

    steps: int
    batch_size: int
    lr: float
    lr_scale: dict[str, float] | None = None
    optimizer: str = "adamw"
    optimizer_args: dict[str, float] = field(default_factory=lambda: {"weight_decay": 1e-2})
    schedule: str = "cosine"
    augment: tuple[str, ...] = ()  # see compare.data.augment
    evaluations: int = 1  # at equal distances, the last of them at the end


# --- networks ---------------------------------------------------------------------------------------------------------


def fresh(model: str, args: dict[str, Any], data: Data, *, seed: int) -> Network:
    """A network that knows nothing; first weights are those that the NumPy track draws."""
    first = MODELS[model](**args).init(np.random.default_rng(seed))
    return Network(model, args, first["params"], first["stats"], data.mean, data.std)


def new_head(network: Network, classes: int, *, seed: int) -> Network:
    """The same network with a fresh output layer, for another number of classes; its features are kept."""
    if classes < 2:
        raise UserError(f"an output layer for {classes} classes: there is nothing to tell apart, give 2 at least")
    args = {**network.args, "classes": classes}
    made = MODELS[network.model](**args).init(np.random.default_rng(seed))["params"]
    head = made.pop("output")
    features = {name: part for name, part in network.params.items() if name != "output"}
    try:
        require_same(made, features, what="features")
    except ValueError as error:
        raise UserError(f"no new output layer can be put on this {network.model}: {error}") from error
    params = tree_map(lambda _, leaf: leaf, made, features) | {
        "output": head
    }  # in the model's order, whatever was given
    return replace(network, args=args, params=params)


def slower_towards_the_input(params: Tree, first: float) -> dict[str, float]:
    """Factors of the learning rate that rise geometrically from ``first`` at the first layer to 1 at the output.

    A norm has the factor of the convolution that it follows; both it and the output may stand anywhere in the tree.
    """
    layers: list[str] = []
    for name, part in params.items():
        layers += [f"{name}/{k}" for k in part] if all(key.isdecimal() for key in part) else [name]
    place = {layer: conv if (conv := layer.replace("norm", "conv")) in layers else layer for layer in layers}
    in_order = sorted(dict.fromkeys(place.values()), key=lambda layer: layer == "output")
    depth = {layer: k for k, layer in enumerate(in_order)}
    return {layer: first ** (1 - depth[place[layer]] / (len(depth) - 1)) for layer in layers}


# --- training ---------------------------------------------------------------------------------------------------------


def learn(
    track_name: str, network: Network, recipe: Recipe, data: Data, *, seed: int, threads: int, emit: Emit
) -> tuple[Network, list[Event]]:
    """Train by the functions of a track; the network afterwards, and its accuracies on the test images."""
    track = tracks.load(track_name)
    try:
        state = track.init_state(
            network.snapshot,
            model=network.model,
            model_args=network.args,
            optimizer=recipe.optimizer,
            optimizer_args=recipe.optimizer_args,
            schedule=recipe.schedule,
            schedule_args={"lr": recipe.lr, "steps": recipe.steps},
            lr_scale=recipe.lr_scale,
            mean=network.mean,
            std=network.std,
            seed=seed,
            threads=threads,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    chunk, rows = chunk_of(recipe), []
    batch_size = min(recipe.batch_size, len(data.train_x))
    for step in range(chunk, recipe.steps + 1, chunk):
        x, y = data.train_chunk(seed, step - chunk, chunk, batch_size=batch_size, augment=recipe.augment)
        state, metrics = track.train_steps(state, x, y)
        loss = float(np.asarray(metrics["loss"], np.float64).mean())
        if not np.isfinite(loss):
            raise UserError(f"{track_name}: the loss became {loss} by step {step:,}; try a lower learning rate")
        emit({"event": "chunk", "steps": chunk, "loss": loss})
        if step * recipe.evaluations % recipe.steps == 0:
            rows.append({"step": step, "accuracy": accuracy(track, state, data), "count": len(data.test_y)})
    snapshot = track.to_snapshot(state)
    return replace(network, params=snapshot["params"], stats=snapshot["stats"]), rows


def chunk_of(recipe: Recipe) -> int:
    """Steps per call: as many as divide the distance of two evaluations, 25 at most."""
    if recipe.steps < 1 or recipe.steps % recipe.evaluations:
        raise UserError(f"{recipe.steps} steps are not {recipe.evaluations} equal parts: choose a multiple")
    return max(k for k in range(1, 26) if recipe.steps // recipe.evaluations % k == 0)


def accuracy(track: tracks.Track, state: Any, data: Data, *, batch_size: int = 500) -> float:
    """The share of all test images that is answered rightly."""
    sums = [track.eval_batch(state, *batch) for batch in eval_batches(data.test_x, data.test_y, batch_size)]
    right, count = (sum(int(each[name]) for each in sums) for name in ("correct", "count"))
    if count != len(data.test_y):
        raise AssertionError(f"{len(data.test_y)} test images, but {count} were counted")
    return right / count


def three_ways(
    track: str, ignorant: Network, taught: Network, recipes: dict[str, Recipe], data: Data, *, seed: int, **how: Any
) -> list[Event]:
    """Learn the new task from scratch, by a linear probe and by fine-tuning: their accuracies, step by step."""
    rows = []
    for method in METHODS:
        start = ignorant if method == "scratch" else taught
        lr_scale = {
            "scratch": None,
            "linear probe": {"": 0.0, "output": 1.0},
            "fine-tuning": slower_towards_the_input(taught.params, EARLIEST),
        }[method]
        _, learned = learn(track, start, replace(recipes[method], lr_scale=lr_scale), data, seed=seed, **how)
        rows += [{"track": track, "seed": seed, "method": method, **row} for row in learned]
    return rows


# --- two tasks --------------------------------------------------------------------------------------------------------

CNN = {"classes": 5}
PRETRAINING = Recipe(steps=600, batch_size=64, lr=3e-3, augment=("affine:10:2",))
# the learning rates were chosen on other seeds, by training images that were not learned from
DIGITS = {
    "scratch": Recipe(steps=100, batch_size=50, lr=3e-3, evaluations=4),
    "linear probe": Recipe(steps=100, batch_size=50, lr=3e-2, evaluations=4),
    "fine-tuning": Recipe(steps=100, batch_size=50, lr=5e-3, evaluations=4),
}
ELSEWHERE = {
    "scratch": Recipe(steps=300, batch_size=32, lr=3e-3),
    "linear probe": Recipe(steps=300, batch_size=32, lr=1e-2),
    "fine-tuning": Recipe(steps=300, batch_size=32, lr=3e-3),
}


def digits(track: str, *, seed: int, labels: int, steps: int | None = None, **how: Any) -> list[Event]:
    """MNIST: learn the digits 0 to 4, then 5 to 9 from so many ``labels`` per class."""
    mnist = load("mnist", val_size=0)
    old, new = only(mnist, range(5)), few(only(mnist, range(5, 10)), labels, seed=seed)
    pretraining = PRETRAINING if steps is None else replace(PRETRAINING, steps=steps)
    taught, rows = learn(track, fresh("cnn", CNN, mnist, seed=seed), pretraining, old, seed=seed, **how)
    rows = [{"track": track, "seed": seed, "method": PRETRAINED, **row} for row in rows]
    head = new_head(taught, 5, seed=seed + 1)
    ignorant = fresh("cnn", CNN, mnist, seed=seed + 1)
    return rows + three_ways(track, ignorant, head, shortened(DIGITS, steps), new, seed=seed, **how)


def elsewhere(
    track: str,
    *,
    seed: int,
    dataset: str,
    pretrained: str,
    fraction: float,
    size: int | None = None,
    data_dir: str | None = None,
    steps: int | None = None,
    **how: Any,
) -> list[Event]:
    """A network of others' (see ``compare.weights.hub``), and a ``fraction`` of the labels of a dataset."""
    from compare.weights import hub

    taught = hub.get(pretrained, size=size)
    shape = taught.args["input_shape"]
    data = load(dataset, data_dir=data_dir, val_size=0, image_size=shape[0], channels=shape[2])
    per_class = max(round(fraction * len(data.train_x) / len(data.classes)), 1)
    data = few(data, per_class, seed=seed)
    train_x, test_x = (fit_images(x, shape) for x in (data.train_x, data.test_x))
    data = replace(data, train_x=train_x, test_x=test_x, mean=taught.mean, std=taught.std)
    head = new_head(taught, len(data.classes), seed=seed)
    ignorant = fresh(head.model, head.args, data, seed=seed)
    return three_ways(track, ignorant, head, shortened(ELSEWHERE, steps), data, seed=seed, **how)


TASKS: dict[str, Callable[..., list[Event]]] = {"digits": digits, "to": elsewhere}


def total_steps(task: str, steps: int | None) -> int:
    """Of all the trainings of one seed."""
    recipes = [*(DIGITS.values() if task == "digits" else ELSEWHERE.values()), *([PRETRAINING] * (task == "digits"))]
    return sum(recipe.steps if steps is None else steps for recipe in recipes)


def shortened(recipes: dict[str, Recipe], steps: int | None) -> dict[str, Recipe]:
    """The same recipes with so many steps and an evaluation at the end; None leaves them as they are."""
    if steps is None:
        return recipes
    return {method: replace(recipe, steps=steps, evaluations=1) for method, recipe in recipes.items()}
