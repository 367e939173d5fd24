"""Transfer learning: features pretrained on one task, used for another of which few labels are known.

Three methods learn the new task, the same in every track, from the same first weights, on the same batches:

    scratch        random init, nothing is transferred
    linear probe   the features are frozen, and only a new output layer is trained on them
    fine-tuning    a new output layer, and all other layers train on, the earlier ones at lower learning rates

Frozen and fine-tuned features follow Yosinski, Clune, Bengio & Lipson 2014, arXiv:1411.1792; learning rates that fall
towards the input follow Howard & Ruder 2018, arXiv:1801.06146.

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
from compare.config import Config
from compare.data import Data, load
from compare.data.subsets import few, fit_images, only, share
from compare.errors import UserError
from compare.training import loop
from compare.training.steps import plan
from compare.weights.network import Network
from compare.workers.protocol import Emit, Event
from numpy_nn.models import MODELS
from numpy_nn.tree import Tree, require_same, tree_map

METHODS = ("scratch", "linear probe", "fine-tuning")
PRETRAINED = "pretraining"  # the method of the rows of the old task
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
    evaluations: int = 1  # at equal distances, the last one at the end


# --- networks ---------------------------------------------------------------------------------------------------------


def fresh(model: str, args: dict[str, Any], data: Data, *, seed: int) -> Network:
    """A randomly initialised network; its weights are those that the NumPy track draws."""
    first = MODELS[model](**args).init(np.random.default_rng(seed))
    return Network(model, args, first["params"], first["stats"], data.mean, data.std)


def new_head(network: Network, classes: int, *, seed: int) -> Network:
    """The same network with a new output layer, for another number of classes; its features are kept.

    Raises UserError for fewer than two classes, or where the features do not fit the model.
    """
    if classes < 2:
        raise UserError(f"an output layer for {classes} classes has nothing to classify: give at least 2 classes")
    args = {**network.args, "classes": classes}
    expected = MODELS[network.model](**args).init(np.random.default_rng(seed))["params"]
    head = expected.pop("output")
    features = {name: part for name, part in network.params.items() if name != "output"}
    try:
        require_same(expected, features, what="features")
    except ValueError as error:
        raise UserError(f"no new output layer can be put on this {network.model}: {error}") from error
    params = tree_map(lambda _, leaf: leaf, expected, features) | {"output": head}  # in the model's order
    return replace(network, args=args, params=params)


def slower_towards_the_input(params: Tree, first: float) -> dict[str, float]:
    """Learning-rate factors by layer that rise geometrically from ``first`` at the first layer to 1 at the output.

    A norm has the factor of the convolution that it follows. The order of the layers is that of the tree, the output
    last.
    """
    layers: list[str] = []
    for name, part in params.items():
        layers += [f"{name}/{k}" for k in part] if all(key.isdecimal() for key in part) else [name]
    rate_of = {layer: conv if (conv := layer.replace("norm", "conv")) in layers else layer for layer in layers}
    in_order = sorted(dict.fromkeys(rate_of.values()), key=lambda layer: layer == "output")
    depth = {layer: k for k, layer in enumerate(in_order)}
    return {layer: first ** (1 - depth[rate_of[layer]] / (len(depth) - 1)) for layer in layers}


# --- training ---------------------------------------------------------------------------------------------------------


def learn(
    track_name: str, network: Network, recipe: Recipe, data: Data, *, seed: int, threads: int, emit: Emit
) -> tuple[Network, list[Event]]:
    """Train a network; return it as it is afterwards, and a row for each evaluation on the test images."""
    settings = vars(recipe) | {"batch_size": min(recipe.batch_size, len(data.train_x)), "seed": seed}
    evaluations = settings.pop("evaluations")
    config = Config(track_name, network.model, data.name, model_args=network.args, **settings)
    data = replace(data, mean=network.mean, std=network.std)
    schedule = plan(config, len(data.train_x), evaluations=evaluations)
    arguments = tracks.state_arguments(config, track_name, steps=recipe.steps, threads=threads)
    track = tracks.load(track_name)
    training = loop.begin(track, config, data, network.snapshot, schedule=schedule, arguments=arguments)
    try:
        loop.train(training, emit)
    except UserError as error:
        raise UserError(f"{track_name}: {error}") from error
    count = len(data.test_y)
    rows = [{"step": row["step"], "accuracy": row["test_accuracy"], "count": count} for row in training.history]
    snapshot = track.to_snapshot(training.state)
    return replace(network, params=snapshot["params"], stats=snapshot["stats"]), rows


def three_ways(
    track: str,
    random_init: Network,
    pretrained: Network,
    recipes: dict[str, Recipe],
    data: Data,
    *,
    seed: int,
    **options: Any,
) -> list[Event]:
    """The rows of the three methods on the new task; ``options`` are ``threads`` and ``emit`` of :func:`learn`."""
    rows = []
    for method in METHODS:
        start = random_init if method == "scratch" else pretrained
        lr_scale = {
            "scratch": None,
            "linear probe": {"": 0.0, "output": 1.0},
            "fine-tuning": slower_towards_the_input(pretrained.params, EARLIEST),
        }[method]
        recipe = replace(recipes[method], lr_scale=lr_scale)
        _, evaluations = learn(track, start, recipe, data, seed=seed, **options)
        rows += [{"track": track, "seed": seed, "method": method, **row} for row in evaluations]
    return rows


# --- two tasks --------------------------------------------------------------------------------------------------------

CNN = {"classes": 5}
PRETRAINING = Recipe(steps=600, batch_size=64, lr=3e-3, augment=("affine:10:2",))
# the learning rates were chosen on other seeds, by training images that were held out
DIGITS = {
    "scratch": Recipe(steps=100, batch_size=50, lr=3e-3, evaluations=4),
    "linear probe": Recipe(steps=100, batch_size=50, lr=3e-2, evaluations=4),
    "fine-tuning": Recipe(steps=100, batch_size=50, lr=5e-3, evaluations=4),
}
DATASET = {
    "scratch": Recipe(steps=300, batch_size=32, lr=3e-3),
    "linear probe": Recipe(steps=300, batch_size=32, lr=1e-2),
    "fine-tuning": Recipe(steps=300, batch_size=32, lr=3e-3),
}


def digits(track: str, *, seed: int, labels: int, steps: int | None = None, **options: Any) -> list[Event]:
    """The rows of MNIST: pretraining on the digits 0 to 4, then 5 to 9 from ``labels`` images per class."""
    mnist = load("mnist", val_size=0)
    old, new = only(mnist, range(5)), few(only(mnist, range(5, 10)), labels, seed=seed)
    pretraining = PRETRAINING if steps is None else replace(PRETRAINING, steps=steps)
    pretrained, rows = learn(track, fresh("cnn", CNN, mnist, seed=seed), pretraining, old, seed=seed, **options)
    rows = [{"track": track, "seed": seed, "method": PRETRAINED, **row} for row in rows]
    pretrained = new_head(pretrained, 5, seed=seed + 1)
    random_init = fresh("cnn", CNN, mnist, seed=seed + 1)
    return rows + three_ways(track, random_init, pretrained, shortened(DIGITS, steps), new, seed=seed, **options)


def to_dataset(
    track: str,
    *,
    seed: int,
    dataset: str,
    pretrained: str,
    fraction: float,
    size: int | None = None,
    data_dir: str | None = None,
    steps: int | None = None,
    **options: Any,
) -> list[Event]:
    """The rows of a published network (see ``compare.weights.hub``) on a ``fraction`` of the labels of a dataset."""
    from compare.weights import hub

    network = hub.get(pretrained, size=size)
    shape = network.args["input_shape"]
    data = load(dataset, data_dir=data_dir, val_size=0, image_size=shape[0], channels=shape[2])
    data = share(data, fraction, seed=seed)
    train_x, test_x = (fit_images(x, shape) for x in (data.train_x, data.test_x))
    data = replace(data, train_x=train_x, test_x=test_x, mean=network.mean, std=network.std)
    network = new_head(network, len(data.classes), seed=seed)
    random_init = fresh(network.model, network.args, data, seed=seed)
    return three_ways(track, random_init, network, shortened(DATASET, steps), data, seed=seed, **options)


TASKS: dict[str, Callable[..., list[Event]]] = {"digits": digits, "to": to_dataset}


def total_steps(task: str, steps: int | None) -> int:
    """Steps of all trainings of one seed."""
    recipes = [*(DIGITS.values() if task == "digits" else DATASET.values()), *([PRETRAINING] * (task == "digits"))]
    return sum(recipe.steps if steps is None else steps for recipe in recipes)


def shortened(recipes: dict[str, Recipe], steps: int | None) -> dict[str, Recipe]:
    """The recipes with ``steps`` steps and one evaluation at the end; None leaves them as they are."""
    if steps is None:
        return recipes
    return {method: replace(recipe, steps=steps, evaluations=1) for method, recipe in recipes.items()}
