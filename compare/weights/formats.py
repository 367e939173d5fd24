"""The formats of exported networks: what describes a network in its file, its state dict, and each file's bytes."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from compare.errors import require_packages
from compare.weights.architectures import ARCHITECTURES, published_name, to_published
from compare.weights.network import Network, description
from compare.weights.npz import WeightsError
from compare.weights.torch_files import HEADER
from numpy_nn.tree import leaves
from torch_nn import interop, models
from torch_nn.train import preprocess


def torch_module(network: Network) -> nn.Module:
    """The network in PyTorch, ready for use."""
    try:
        module = models.get(network.model)(**network.args)
        module.to(_dtype(network))
        interop.params_from_tree(module, network.params)
        interop.stats_from_tree(module, network.stats)
    except (TypeError, ValueError, LookupError) as error:
        raise WeightsError(f"the weights do not fit {network.model} with {network.args}: {error}") from error
    return module.eval()


def _dtype(network: Network) -> torch.dtype:
    wide = any(np.asarray(leaf).dtype == np.float64 for leaf in leaves(network.params).values())
    return torch.float64 if wide else torch.float32


def state_dict(network: Network, names: str = "ours") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The network's state dict, by our names or the published ones, and its description."""
    state = torch_module(network).state_dict()
    if names == "ours":
        return state, description(network)
    name = published_name(network.model, network.args)
    if name is None:
        published = ", ".join(name for name, known in ARCHITECTURES.items() if known.args)
        raise WeightsError(f"this {network.model} is not one of the published networks: {published}")
    return to_published(state, name, network.args), description(network, architecture=name)


# --- formats ----------------------------------------------------------------------------------------------------------


def to_safetensors(network: Network, names: str) -> bytes:
    """Tensors by name; the description stands in the header."""
    state, about = state_dict(network, names)
    contiguous = {name: value.contiguous() for name, value in state.items()}
    return safetensors.torch.save(contiguous, {"format": "pt", HEADER: json.dumps(about)})


def to_torch(network: Network, names: str) -> bytes:
    """A plain state dict; the description lies in its ``_metadata``, where modules keep their versions."""
    state, about = state_dict(network, names)
    metadata = getattr(state, "_metadata", {})
    state = type(state)((name, value.contiguous()) for name, value in state.items())
    state._metadata = metadata | {HEADER: {"json": json.dumps(about)}}  # type: ignore[attr-defined]
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


class FromBytes(nn.Module):
    """uint8 images (n, h, w, c) -> logits (n, v): scaling and network in one."""

    def __init__(self, network: Network):
        super().__init__()
        self.network = torch_module(network).float()
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(network, name))[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        return self.network(preprocess(images, self.mean, self.std))


def to_onnx(network: Network, names: str) -> bytes:
    """The whole computation, for any number n of images; the description is in the model's metadata."""
    if names != "ours":
        raise WeightsError("ONNX files hold a computation without parameter names: omit --names")
    require_packages("ONNX", "onnx", "onnxscript", extra="export")
    images = torch.zeros((2, *network.input_shape), dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.export about PyTorch's own recurrent modules
        program = torch.onnx.export(
            FromBytes(network).eval(),
            (images,),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes={"images": {0: torch.export.Dim("n")}},
            dynamo=True,
            verbose=False,
        )
    program.model.metadata_props[HEADER] = json.dumps(description(network))
    buffer = io.BytesIO()
    program.save(buffer)
    return buffer.getvalue()


FORMATS: dict[str, Callable[[Network, str], bytes]] = {
    "safetensors": to_safetensors,
    "torch": to_torch,
    "onnx": to_onnx,
}
