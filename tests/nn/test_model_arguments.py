"""A network that cannot work says which argument is to blame."""

from __future__ import annotations

from typing import Any

import pytest

from numpy_nn.models import MODELS

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
