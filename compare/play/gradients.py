"""The gradient of the logits with respect to the pixels, by each track's own backward pass."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np

from compare.errors import UserError
from compare.training.call_recorder import watching
from compare.weights.network import Network
from numpy_nn.norm import EVAL
from numpy_nn.train import preprocess
from numpy_nn.tree import Tree

LARGEST_STEP = 64  # grey levels
BACKWARD = {
    "conv2d_backward": "numpy_nn.conv",
    "linear_backward": "numpy_nn.layers",
    "rnn_backward": "numpy_nn.recurrent",
    "lstm_backward": "numpy_nn.recurrent",
}


def pixel_gradient(network: Network, x: np.ndarray, dlogits: np.ndarray, track: str) -> np.ndarray:
    """Return the gradient of dlogits · logits with respect to the pixels in 0 .. 1, float32 (1, h, w, c).

    x is uint8 (1, h, w, c), dlogits float32 (1, v). Simonyan et al. 2014, arXiv:1312.6034.
    The gradient is taken at x plus noise of one grey level of a fixed seed. On a uniform background all inputs of a
    max pool are equal, and then rounding decides which of them gets the gradient.
    """
    return np.asarray(GRADIENTS[track](network.state(track), beside(x), dlogits))


def beside(x: np.ndarray) -> np.ndarray:
    """Return images uint8 with noise of one grey level of a fixed seed."""
    noise = np.random.default_rng(0).standard_normal(x.shape, np.float32)
    return (x + noise).clip(0, 255).round().astype(np.uint8)


def parameter_gradients(network: Network, x: np.ndarray, dlogits: np.ndarray, track: str) -> Tree:
    """Return the gradient of dlogits · logits with respect to the parameters, a tree like them; x is noisy as above."""
    return PARAMETERS[track](network.state(track), beside(x), dlogits)


def adversarial_step(
    network: Network, x: np.ndarray, track: str, toward: int | None = None
) -> tuple[np.ndarray, int | None]:
    """Return the image after the smallest step along a gradient's sign that changes the prediction, and the step.

    The gradient is that of the logit of class ``toward``, or else of the runner-up, minus that of the prediction. x is
    uint8 (h, w, c); the step is in grey levels, and None if the ``LARGEST_STEP`` is too small. Goodfellow et al. 2015,
    arXiv:1412.6572.
    """
    logits = network.logits(x[None], track)[0]
    second, first = np.argsort(logits)[-2:]
    classes = np.eye(len(logits), dtype=np.float32)
    other = second if toward in (None, first) else toward
    sign = np.sign(pixel_gradient(network, x[None], (classes[other] - classes[first])[None], track))
    steps = np.arange(1, LARGEST_STEP + 1).reshape(-1, 1, 1, 1)
    images = (x + steps * sign).clip(0, 255).astype(np.uint8)
    changed = network.logits(images, track).argmax(axis=1) != first
    k = int(changed.argmax())
    return (images[k], k + 1) if changed[k] else (x, None)


def forward(state: Any, x: np.ndarray) -> Any:
    """Run the NumPy track's forward pass for images uint8 (n, h, w, c); return the cache of its backward pass."""
    _, _, cache = state.model.forward(
        state.ema or state.params, state.stats, preprocess(x, state.mean, state.std), EVAL
    )
    return cache


def in_numpy(state: Any, x: np.ndarray, dlogits: np.ndarray) -> np.ndarray:
    """The model's backward pass by hand, and then the first layer's dx, which training does not need."""
    last: list[Any] = []

    def note(name: str, values: Mapping[str, Any], answer: Any) -> None:
        last[:] = name, values, answer

    cache = forward(state, x)
    with watching(BACKWARD, note):
        state.model.backward(dlogits, cache)
    if not last:
        raise UserError(f"no gradient of the pixels: a backward pass needs one of {', '.join(BACKWARD)} as its end")
    name, values, (dx, *_) = last
    if dx is None:
        dx, *_ = getattr(import_module(BACKWARD[name]), name)(values["dy"], values["cache"])
    if dx.size != x.size:
        raise UserError(f"no gradient of the pixels: the backward pass ends with {name}, but not at the image")
    return dx.reshape(x.shape) / state.std


def in_jax(state: Any, x: np.ndarray, dlogits: np.ndarray) -> Any:
    """``jax.vjp``, through the scaling of the bytes too."""
    return 255 * compiled(state.forward, "x")(state.carry, x.astype(dlogits.dtype), dlogits)


@functools.lru_cache(maxsize=4)
def compiled(forward: Any, of: str) -> Any:
    """The backward pass of a compiled forward pass, compiled: carry, x, dlogits -> the gradient of x or of params."""
    import jax

    def backward(carry: Any, x: Any, dlogits: Any) -> Any:
        if of == "x":
            _, pull_back = jax.vjp(functools.partial(forward.__wrapped__, carry), x)
        else:
            _, pull_back = jax.vjp(lambda params: forward.__wrapped__(carry | {of: params}, x), carry[of])
        return pull_back(dlogits)[0]

    return jax.jit(backward)


def in_torch(state: Any, x: np.ndarray, dlogits: np.ndarray) -> Any:
    """``torch.autograd.grad``."""
    import torch

    from torch_nn import train

    pixels = train.preprocess(torch.from_numpy(x), state.mean, state.std).requires_grad_()
    state.model.eval()
    (dx,) = torch.autograd.grad(state.eval_forward(pixels), pixels, torch.from_numpy(dlogits))
    return (dx / state.std).permute(0, 2, 3, 1)


def parameters_in_numpy(state: Any, x: np.ndarray, dlogits: np.ndarray) -> Tree:
    """The model's backward pass by hand."""
    return state.model.backward(dlogits, forward(state, x))


def parameters_in_jax(state: Any, x: np.ndarray, dlogits: np.ndarray) -> Tree:
    """``jax.vjp``."""
    from jax_nn import interop

    return interop.to_numpy(compiled(state.forward, "params")(state.carry, x, dlogits))


def parameters_in_torch(state: Any, x: np.ndarray, dlogits: np.ndarray) -> Tree:
    """``torch.autograd.grad``."""
    import torch

    from torch_nn import interop, train

    pixels = train.preprocess(torch.from_numpy(x), state.mean, state.std)
    state.model.eval()
    parameters = list(state.model.parameters())
    found = torch.autograd.grad(
        state.eval_forward(pixels), parameters, torch.from_numpy(dlogits), materialize_grads=True
    )
    gradients = {id(parameter): gradient for parameter, gradient in zip(parameters, found, strict=True)}
    return interop.params_to_tree(state.model, lambda parameter: gradients[id(parameter)])


def gap(arrays: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
    """Return the largest difference between two tracks' arrays, the two tracks, and the largest absolute value."""
    pairs = list(itertools.combinations(arrays, 2))
    if not pairs:
        return None
    far = {pair: float(np.abs(arrays[pair[0]] - arrays[pair[1]]).max()) for pair in pairs}
    a, b = max(far, key=lambda pair: far[pair])
    return {"largest": far[a, b], "a": a, "b": b, "of": max(float(np.abs(each).max()) for each in arrays.values())}


PARAMETERS = {"numpy": parameters_in_numpy, "jax": parameters_in_jax, "torch": parameters_in_torch}
GRADIENTS = {"numpy": in_numpy, "jax": in_jax, "torch": in_torch}
