"""What every adapter offers: one implementation of a network that can be run, recorded and given weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from compare.errors import UserError
from compare.ports.recording import Recording, Store


class PortError(UserError):
    """The question cannot be asked as it stands: what ``check`` was given, the reason and the remedy."""


@dataclasses.dataclass(slots=True)
class Leaf:
    """One parameter or running statistic of a side.

    ``axes`` names the axes as far as they are known: "oi" a linear map as PyTorch has it, "io" as JAX has it, "oihw"
    and "hwio" for convolutions; None where nothing is known. ``order`` is when the forward pass first uses it.
    ``mirrored`` is known of transposed convolutions only: PyTorch's reverse the kernel along height and width, and
    Flax's do not, unless with ``transpose_kernel``.
    """

    array: np.ndarray
    axes: str | None = None
    order: int = 0
    trained: bool = True
    mirrored: bool | None = None


Cotangents = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]  # of the outputs; none at all: no backward


class Side(Protocol):
    """One implementation; ``check`` knows no more of a framework than this."""

    kind: str
    has_gradients: bool

    def leaves(self) -> dict[str, Leaf]:
        """Parameters and running statistics by name, in the order of the model."""

    def assign(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Replace leaves of the side's own copy of the model."""

    def run(self, inputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name, not recorded."""

    def record(self, inputs: Sequence[np.ndarray], store: Store, cotangents: Cotangents | None = None) -> Recording:
        """Run forward and, where ``cotangents`` makes some of the outputs, backward; keep every value."""

    def train_steps(
        self, inputs: Sequence[np.ndarray], cotangents: Mapping[str, np.ndarray], steps: int, optimizer: Any
    ) -> list[dict[str, np.ndarray]]:
        """Trained parameters before the first step and after each, of the loss Σ output · cotangent."""


def flatten_outputs(outputs: Any, prefix: str = "") -> dict[str, Any]:
    """Outputs by path, whatever dictionaries, tuples and lists hold them; None is left out."""
    if outputs is None:
        return {}
    if isinstance(outputs, Mapping):
        items = [(str(key), outputs[key]) for key in sorted(outputs, key=str)]
    elif isinstance(outputs, (tuple, list)):
        items = [(str(k), each) for k, each in enumerate(outputs)]
    else:
        return {prefix or "output": outputs}
    found: dict[str, Any] = {}
    for name, each in items:
        found |= flatten_outputs(each, f"{prefix}/{name}" if prefix else name)
    return found
