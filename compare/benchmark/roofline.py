"""The layers of a network, each timed alone on one core, for the roofline.

The NumPy network is run once and its calls are recorded: every convolution, linear layer, ReLU and max pool, with its
shapes. A process per track then repeats each of them by itself, forward and backward, as that track computes it. The
matmuls take at least ``flops`` divided by the GEMM peak, and moving the arrays at least ``bytes`` divided by the
bandwidth; the larger of the two is attainable (Williams, Waterman & Patterson 2009, "Roofline: an insightful visual
performance model for multicore architectures").
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from compare import tracks
from compare.config import Config
from compare.training.call_recorder import watching

OPS = {"conv2d": "numpy_nn.conv", "linear": "numpy_nn.layers", "relu": "numpy_nn.layers", "max_pool": "numpy_nn.conv"}
SECONDS, LAPS = 0.2, 5  # measured at least, for every layer


@dataclasses.dataclass(frozen=True)
class Layer:
    """An operation of a network as it was called."""

    op: str  # a name in OPS
    x: tuple[int, ...]  # shapes
    y: tuple[int, ...]
    kernel: tuple[int, ...] | None
    options: tuple[tuple[str, Any], ...]  # stride, padding, window, ...
    need_dx: bool  # False for the first layer: the gradient of the images is not needed

    @property
    def label(self) -> str:
        """``conv 3x3 1→32``."""
        if self.kernel is None:
            return f"{self.op.replace('_', ' ')} {'x'.join(map(str, self.x[1:]))}"
        *window, i, o = self.kernel
        return f"conv {'x'.join(map(str, window))} {i}→{o}" if window else f"linear {i}→{o}"

    @property
    def flops(self) -> int:
        """FLOPs of the matmuls, forward and backward: y, dW, and dx where it is needed."""
        if self.kernel is None:
            return 0
        return 2 * math.prod(self.y) * math.prod(self.kernel[:-1]) * (3 if self.need_dx else 2)

    @property
    def bytes(self) -> int:
        """Bytes of each array once, in float32: x, W and y forward; dy, x, W, dW, and dx where needed, backward."""
        x, y, kernel = (math.prod(shape or (0,)) for shape in (self.x, self.y, self.kernel))
        return 4 * (2 * x + 2 * y + 3 * kernel + (x if self.need_dx else 0))


def of_network(config: Config) -> dict[Layer, int]:
    """The layers that a training step of the config calls, in order, and how often."""
    from numpy_nn.models import MODELS
    from numpy_nn.norm import TRAIN
    from numpy_nn.tree import cast

    network = MODELS[config.model](**config.model_args)
    variables = cast(network.init(np.random.default_rng(0)), "float32")
    shape = tracks.model_argument(config.model, config.model_args, "input_shape")
    images = np.zeros((config.batch_size, *shape), np.int32 if len(shape) == 1 else np.float32)
    found: dict[Layer, int] = {}

    def note(name: str, values: Mapping[str, Any], answer: Any) -> None:
        if isinstance(answer, tuple) and isinstance(answer[0], np.ndarray):
            kernel = values.get("kernel")
            options = {name: values[name] for name in ("stride", "padding", "window", "groups") if name in values}
            layer = Layer(
                op=name.removesuffix("_forward"),
                x=values["x"].shape,
                y=answer[0].shape,
                kernel=None if kernel is None else kernel.shape,
                options=tuple(options.items()),
                need_dx=any(known.kernel for known in found),
            )
            found[layer] = found.get(layer, 0) + 1

    with watching({f"{op}_forward": module for op, module in OPS.items()}, note):
        network.forward(variables["params"], variables["stats"], images, TRAIN)
    return found


# --- one layer in each track: a function that computes it once, forward and backward ----------------------------------


def in_numpy(layer: Layer, x: np.ndarray, dy: np.ndarray, params: Mapping[str, np.ndarray]) -> Callable[[], Any]:
    """The pair of functions of numpy_nn."""
    module = importlib.import_module(OPS[layer.op])
    forward, backward = (getattr(module, f"{layer.op}_{way}") for way in ("forward", "backward"))
    how = {"need_dx": layer.need_dx} if params else {}

    def both() -> None:
        _, cache = forward(x, **params, **dict(layer.options))
        backward(dy, cache, **how)

    return both


def in_jax(layer: Layer, x: np.ndarray, dy: np.ndarray, params: Mapping[str, np.ndarray]) -> Callable[[], Any]:
    """The module of jax_nn, its vector-Jacobian product in one jitted function."""
    import jax
    from flax import nnx

    from jax_nn import conv, layers
    from jax_nn.devices import compiler_options

    values: Any = {}
    if params:
        module = _module(conv.Conv, layers.Linear, layer, rngs=nnx.Rngs(0))
        graphdef, values = nnx.split(module)
    else:
        function = layers.relu if layer.op == "relu" else _partial(conv.max_pool, layer)

    def forward(values: Any, x: Any) -> Any:
        return nnx.merge(graphdef, values)(x) if params else function(x)

    @functools.partial(jax.jit, compiler_options=compiler_options(jax.devices()))
    def both(values: Any, x: Any, dy: Any) -> Any:
        if layer.need_dx:
            y, back = jax.vjp(forward, values, x)
        else:
            y, back = jax.vjp(lambda values: forward(values, x), values)
        return y, back(dy)

    images, dimages = jax.device_put((x, dy))
    return lambda: jax.block_until_ready(both(values, images, dimages))


def in_torch(layer: Layer, x: np.ndarray, dy: np.ndarray, params: Mapping[str, np.ndarray]) -> Callable[[], Any]:
    """The module of torch_nn, and autograd."""
    import torch

    from torch_nn import conv, layers

    torch.set_num_threads(1)
    if params:
        function = _module(conv.Conv, layers.Linear, layer).to(memory_format=torch.channels_last)
    else:
        function = torch.relu if layer.op == "relu" else _partial(conv.max_pool, layer)
    images, dimages = (torch.from_numpy(array) for array in (x, dy))
    if x.ndim == 4:  # channels first in name, last in memory
        images, dimages = images.permute(0, 3, 1, 2), dimages.permute(0, 3, 1, 2)
    images.requires_grad_(layer.need_dx or not params)
    wanted = [*(function.parameters() if params else ()), *([images] if images.requires_grad else [])]
    return lambda: torch.autograd.grad(function(images), wanted, dimages)


WAYS = {"numpy": in_numpy, "jax": in_jax, "torch": in_torch}


def _module(conv: Any, linear: Any, layer: Layer, **extra: Any) -> Any:
    """The layer with parameters, by the arguments that JAX and PyTorch share."""
    *window, i, o = layer.kernel or ()
    if not window:
        return linear(i, o, **extra)
    options = dict(layer.options)
    return conv(i * options["groups"], o, window[0], **options, **extra)


def _partial(pool: Callable[..., Any], layer: Layer) -> Callable[[Any], Any]:
    return lambda x: pool(x, **dict(layer.options))


def milliseconds(layer: Layer, track: str) -> float:
    """Median time of the layer in a track, forward and backward together."""
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal(shape, np.float32) for shape in (layer.x, layer.y))
    params = {}
    if layer.kernel:
        params = {"kernel": rng.standard_normal(layer.kernel, np.float32), "bias": np.zeros(layer.y[-1], np.float32)}
    once = WAYS[track](layer, x, dy, params)
    once()
    once()
    laps: list[float] = []
    while len(laps) < LAPS or sum(laps) < SECONDS:
        start = time.perf_counter()
        once()
        laps.append(time.perf_counter() - start)
    return 1000 * statistics.median(laps)


def measured(config: Config, track: str) -> list[dict[str, Any]]:
    """Rows: ``label``, ``op``, ``count``, ``flops``, ``bytes`` and ``ms`` of each layer, one call of it."""
    return [
        {
            "label": layer.label,
            "op": layer.op,
            "count": count,
            "flops": layer.flops,
            "bytes": layer.bytes,
            "ms": milliseconds(layer, track),
        }
        for layer, count in of_network(config).items()
    ]
