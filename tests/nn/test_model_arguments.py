"""Every argument of every network has an effect, the same in all tracks; one that cannot work is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.gradcheck import assert_close
from support.signatures import assert_changed, defaults, parameters

import jax_nn.models
import torch_nn.models
from compare import tracks
from compare.config import Config
from compare.parity import check
from numpy_nn.models import MODELS
from numpy_nn.tree import leaves

# Every argument of every network, with a value that is not its default.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "mlp": {"input_shape": (6, 5, 2), "hidden": (5, 4), "classes": 3, "activation": "tanh"},
    "cnn": {
        "input_shape": (8, 9, 2),
        "channels": (3, 4),
        "kernel": 3,
        "padding": 1,
        "pools": (1, 2),
        "batch_norm": True,
        "hidden": 5,
        "classes": 3,
    },
    "lenet5": {"input_shape": (18, 20, 2), "padding": 1, "classes": 3},
    "vgg": {
        "input_shape": (32, 40, 2),
        "stages": (1, 1, 1, 2, 1),
        "channels": (3, 4, 3, 4, 3),
        "batch_norm": False,
        "pool": 2,
        "hidden": (5,),
        "classes": 3,
    },
    "resnet": {
        "input_shape": (16, 24, 2),
        "stages": (1, 2, 1),
        "channels": (4, 6, 8),
        "stem": "large",
        "shortcut": "project",
        "classes": 3,
    },
    "densenet": {
        "input_shape": (32, 24, 2),
        "blocks": (2, 1, 1),
        "growth": 3,
        "bottleneck": 2,
        "compression": 0.7,
        "stem": "large",
        "classes": 3,
    },
    "rnn": {"input_shape": (6, 5, 2), "hidden": 5, "classes": 3},
    "lstm": {"input_shape": (6, 5, 2), "hidden": 5, "classes": 3},
    "vit": {
        "input_shape": (12, 8, 2),
        "patch": 4,
        "dim": 8,
        "depth": 2,
        "heads": 2,
        "mlp_dim": 6,
        "eps": 0.1,
        "classes": 3,
    },
    "gpt": {
        "input_shape": (9,),
        "dim": 8,
        "depth": 3,
        "heads": 2,
        "mlp_dim": 6,
        "tied": False,
        "eps": 0.1,
        "classes": 11,
    },
}


def logits(track: str, model: str, args: dict[str, Any]) -> np.ndarray:
    """Of two random images or texts, by the first values of a seed."""
    shape, classes = (tracks.model_argument(model, args, name) for name in ("input_shape", "classes"))
    snapshot = MODELS[model](**args).init(np.random.default_rng(0))
    arguments = {"model": model, "model_args": args, "schedule_args": {"lr": 0.1, "steps": 9}, "precision": "float64"}
    with check.exact_jax("float64"):
        channels, values = (shape[-1], 256) if len(shape) == 3 else (1, classes)
        state = tracks.load(track).init_state(snapshot, **arguments, mean=(0.4,) * channels, std=(0.3,) * channels)
        x = np.random.default_rng(1).integers(0, values, (2, *shape), dtype=np.uint8)
        return np.asarray(tracks.load(track).logits(state, x))


@pytest.mark.parametrize("model", MODELS)
def test_an_argument_of_a_network_has_an_effect(model: str) -> None:
    for networks in (MODELS, jax_nn.models.MODELS, torch_nn.models.MODELS):
        assert parameters(networks[model].__init__) - {"self", "rngs"} == set(ARGUMENTS[model])
        assert defaults(networks[model].__init__) == defaults(MODELS[model].__init__)
    plain = MODELS[model]().init(np.random.default_rng(0))
    for argument, value in ARGUMENTS[model].items():
        if argument == "input_shape":  # an image of another size does not fit the other defaults
            continue
        changed = MODELS[model](**{argument: value}).init(np.random.default_rng(0))
        shapes = [{path: leaf.shape for path, leaf in leaves(each).items()} for each in (plain, changed)]
        if shapes[0] == shapes[1]:
            old, new = (logits("numpy", model, args) for args in ({}, {argument: value}))
            assert_changed(new, old, f"{model}: {argument}")


@pytest.mark.parametrize("model", MODELS)
def test_networks_agree_with_no_argument_at_its_default(model: str) -> None:
    expected = logits("numpy", model, ARGUMENTS[model])
    for track in ("jax", "torch"):
        assert_close(logits(track, model, ARGUMENTS[model]), expected, 1e-12, f"{track} {model} logits")  # seen: 3e-15


@pytest.mark.long
@pytest.mark.parametrize("model", MODELS)
def test_networks_train_alike_with_no_argument_at_its_default(model: str) -> None:
    args = ARGUMENTS[model]
    if model == "densenet":  # the norm of its large stem is followed by norms alone: the gradient of its scale is 0
        args = {**args, "stem": "small"}
    config = Config(preset=model, model=model, dataset="random images", model_args=args, lr=0.05, precision="float64")
    for row, _ in check.check_parity(config, list(tracks.TRACKS), steps=3):
        assert row["passed"], row["checks"]


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("lenet5", {"input_shape": (12, 28, 1), "padding": 0}, "a window of 5 does not fit into 4 pixels"),
    ("cnn", {"channels": (4, 6), "pools": (2,)}, r"channels \(4, 6\) and pools \(2,\): give one number of each"),
    ("vgg", {"input_shape": (28, 28, 1)}, "a window of 2 does not fit into 1 pixels"),
    ("vgg", {"stages": (1, 1), "channels": (8,)}, r"stages \(1, 1\) and channels \(8,\): give one number of each"),
    ("resnet", {"stages": (3, 0, 3)}, r"stages \(3, 0, 3\) .* at least 1"),
    ("resnet", {"stem": "tiny"}, "unknown stem 'tiny'; known: small"),
    ("resnet", {"shortcut": "identity"}, "unknown shortcut 'identity'; known: pad, project"),
    ("resnet", {"channels": (16, 33, 64)}, "shortcut pad cannot turn 16 channels into 33"),
    ("densenet", {"blocks": ()}, r"blocks \(\): give the number of layers of each block"),
    ("densenet", {"stem": "tiny"}, "unknown stem 'tiny'; known: small"),
    ("densenet", {"compression": 0.0}, "compression 0.0: it must be above 0"),
    ("vit", {"patch": 5}, "patch is 5: it must divide the image's height 28"),
    ("vit", {"heads": 3}, "heads is 3: it must divide the number of features, 64"),
    ("vit", {"depth": 0}, "depth is 0 and mlp_dim 128: both must be at least 1"),
    ("gpt", {"heads": 3}, "heads is 3: it must divide the number of features, 64"),
    ("gpt", {"depth": 0}, "depth is 0 and mlp_dim 256: both must be at least 1"),
    ("gpt", {"input_shape": (28, 28, 1)}, r"input_shape is \(28, 28, 1\): a text has one number, its length"),
    ("lstm", {"hidden": 0}, "hidden is 0: the state needs at least 1 number"),
    ("densenet", {"input_shape": (16, 3, 3)}, "a window of 2 does not fit into 1 pixels"),
]


@pytest.mark.parametrize(("model", "args", "message"), REFUSED)
def test_invalid_model_arguments_are_refused_by_name(model: str, args: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MODELS[model](**args)
