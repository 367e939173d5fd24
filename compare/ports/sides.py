"""Which kind of implementation something is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from compare.ports.side import PortError, Side

KINDS = (
    "a PyTorch nn.Module; a Flax NNX module; (Flax Linen module, variables); (JAX function, params); "
    "(NumPy forward, params) or (NumPy forward, backward, params); the path of an .onnx file"
)


def open_side(given: Any, name: str, *, train: bool, precision: str) -> Side:
    """The adapter for what the caller passed as a or b."""
    mode: dict[str, Any] = {"train": train, "precision": precision}
    if is_instance(given, "torch.nn", "Module"):
        from compare.ports.torch_side import TorchSide

        return TorchSide(given, **mode)
    if is_instance(given, "flax.nnx", "Module"):
        from compare.ports.jax_side import nnx_module

        return nnx_module(given, **mode)
    if isinstance(given, (str, Path)) and str(given).endswith(".onnx"):
        from compare.ports.onnx_side import OnnxSide

        return OnnxSide(Path(given), precision=precision)
    if isinstance(given, tuple) and len(given) == 2 and is_instance(given[0], "flax.linen", "Module"):
        from compare.ports.jax_side import linen_module

        return linen_module(*given, **mode)
    if isinstance(given, tuple) and len(given) == 2 and callable(given[0]):
        return function(*given, **mode)
    if isinstance(given, tuple) and len(given) == 3 and callable(given[0]) and callable(given[1]):
        forward, backward, params = given
        return numpy_function(forward, params, backward=backward, name=name, **mode)
    raise PortError(f"{name} is {described(given)}: expected one of {KINDS}")


def is_instance(given: Any, module: str, name: str) -> bool:
    """``isinstance`` without importing a framework that the caller does not use."""
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(given, kind)


def described(given: Any) -> str:
    """What something is, for an error message."""
    if isinstance(given, type):
        return f"the class {given.__name__}, not an instance of it"
    if isinstance(given, tuple):
        return f"a tuple of {len(given)} ({', '.join(type(each).__name__ for each in given)})"
    return f"of type {type(given).__name__}"


def function(forward: Callable[..., Any], params: Any, *, train: bool, precision: str) -> Side:
    """A function with parameters: JAX's if any of them is a JAX array, else NumPy's."""
    if has_jax_arrays(params):
        from compare.ports.jax_side import pure_function

        return pure_function(forward, params, train=train, precision=precision)
    return numpy_function(forward, params, backward=None, name="the NumPy function", train=train, precision=precision)


def has_jax_arrays(tree: Any) -> bool:
    """Whether a tree has a JAX array among its leaves."""
    jax = sys.modules.get("jax")
    return jax is not None and any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tree))


def numpy_function(
    forward: Callable[..., Any], params: Any, *, backward: Any, name: str, train: bool, precision: str
) -> Side:
    """A NumPy function; its parameters are a dictionary, nested if you like."""
    from compare.ports.jax_side import mode_arguments
    from compare.ports.numpy_side import NumpySide

    if not isinstance(params, Mapping):
        raise PortError(f"{name}: the parameters of a NumPy function are a dict of arrays, not {type(params).__name__}")
    return NumpySide(forward, params, backward=backward, precision=precision, mode=mode_arguments(forward, train))
