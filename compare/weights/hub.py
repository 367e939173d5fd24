"""Networks that others trained, by name.

torchvision:resnet18            ImageNet weights as torchvision publishes them; downloaded once, then found
resnet20:resnet20-cifar10.th    a file of PyTorch or safetensors, with the name of its architecture
"""

from __future__ import annotations

import hashlib
import re
import urllib.request
from pathlib import Path

from compare.data.fetch import TIMEOUT
from compare.errors import UserError
from compare.weights.architectures import ARCHITECTURES, IMAGENET_NORMALISATION
from compare.weights.network import Network
from compare.weights.torch_files import architecture_of, convert, read

TORCHVISION = "torchvision"


def get(source: str, *, size: int | None = None) -> Network:
    """The network called ``torchvision:NAME`` or ``NAME:FILE``, for images of ``size`` pixels a side.

    Any size will do instead of its own: all of them take means over the image before their first linear layer.
    """
    name, _, rest = source.partition(":")
    if not rest:
        raise UserError(
            f"--pretrained {source}: give {TORCHVISION}:NAME or NAME:FILE; known names: {', '.join(ARCHITECTURES)}"
        )
    name, path = (rest, None) if name == TORCHVISION else (name, Path(rest).expanduser())
    known = architecture_of(name)
    if not known.args:
        raise UserError(
            f"--pretrained {source}: the image preprocessing of {name} is not known; choose a published network"
        )
    snapshot = convert(read(downloaded(name) if path is None else path), name)
    args = dict(known.args)
    if size:
        args["input_shape"] = (size, size, args["input_shape"][2])
    return Network(
        known.model,
        args,
        snapshot["params"],
        snapshot["stats"],
        IMAGENET_NORMALISATION["mean"],
        IMAGENET_NORMALISATION["std"],
    )


def downloaded(name: str) -> Path:
    """The file of torchvision's ImageNet weights in PyTorch's cache (TORCH_HOME), fetched if it is not there.

    The end of its name is the start of its SHA-256, which is checked each time.
    """
    import torch.hub

    url = published(name)
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if path.parts[0] == "~":  # expanduser leaves it where there is no home folder
        raise UserError(
            f"{path.parent}, the folder of {TORCHVISION}'s weights, cannot be found: set TORCH_HOME or HOME"
        )
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            urllib.request.urlopen(url, timeout=TIMEOUT).close()  # torch.hub waits without end
            torch.hub.download_url_to_file(url, str(path), hash_prefix=_prefix(path))
        except (OSError, RuntimeError) as error:  # no network, no space, another file
            raise UserError(
                f"{TORCHVISION}:{name} is not in {path.parent} and cannot be downloaded ({error}). Download {url} on a "
                f"machine that is online and put it there; if {path.parent.parent.parent} is not your torch folder, "
                f"set TORCH_HOME"
            ) from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if not digest.startswith(_prefix(path)):
        raise UserError(
            f"{path} is altered or truncated, its SHA-256 begins with {digest[:8]}: move it away and try again"
        )
    return path


def published(name: str) -> str:
    """Where torchvision publishes the default weights of a network."""
    import torchvision.models

    try:
        return torchvision.models.get_model_weights(name).DEFAULT.url
    except ValueError:
        theirs = [each for each in ARCHITECTURES if each in torchvision.models.list_models()]
        raise UserError(f"{TORCHVISION} publishes no {name!r}; known here: {', '.join(theirs)}") from None


def _prefix(path: Path) -> str:
    found = re.search(r"-([0-9a-f]{8,})\.", path.name)
    if found is None:
        raise UserError(f"{path.name}: its name contains no checksum, so the download cannot be verified")
    return found.group(1)
