"""NumPy: functions written by hand, watched line by line.

``forward(params, *inputs)`` returns the outputs or, where there is a ``backward``, the outputs and a cache;
``backward(doutputs, cache)`` returns gradients in a tree like ``params``. After every line of the user's own code, the
arrays that it bound or changed are recorded; the variables that it read are their inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from compare.ports.line_tracer import LineTracer
from compare.ports.recording import Recording, Store
from compare.ports.side import Cotangents, Leaf, PortError, flatten_outputs
from numpy_nn.tree import Tree, from_leaves, leaves

STATISTICS = ("mean", "var", "running_mean", "running_var")


class NumpySide:
    """A forward function with its parameters, and a backward function if there is one."""

    kind = "NumPy"

    def __init__(
        self,
        forward: Callable[..., Any],
        params: Mapping[str, Any],
        *,
        backward: Callable[..., Any] | None = None,
        precision: str,
        mode: Mapping[str, bool] | None = None,
    ):
        self.forward, self.backward_function, self.mode = forward, backward, dict(mode or {})
        self.has_gradients = backward is not None
        self.dtype = None if precision == "as-is" else np.dtype("float32" if precision == "bfloat16" else precision)
        self.params = from_leaves({name: self.cast(np.asarray(leaf)) for name, leaf in leaves(params).items()})

    def cast(self, array: np.ndarray) -> np.ndarray:
        """A copy, floats in the precision of the check."""
        return np.array(array, self.dtype if self.dtype and array.dtype.kind == "f" else array.dtype)

    def leaves(self) -> dict[str, Leaf]:
        """Parameters by path; those called mean and var are running statistics."""
        found = {}
        for order, (name, array) in enumerate(leaves(self.params).items()):
            last = name.rpartition("/")[2]
            axes = "c" if array.ndim == 1 else {2: "io", 4: "hwio"}.get(array.ndim) if last != "embedding" else "vd"
            found[name] = Leaf(array, axes, order, trained=last not in STATISTICS)
        return found

    def assign(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Replace leaves by path."""
        old = leaves(self.params)
        self.params = from_leaves({name: np.array(arrays.get(name, old[name]), old[name].dtype) for name in old})

    def call(self, inputs: Sequence[np.ndarray]) -> tuple[Any, Any, Tree]:
        """Outputs, and what there is of the cache and of new running statistics."""
        result = self.forward(self.params, *inputs, **self.mode)
        if self.backward_function is None:
            return result, None, {}
        if not (isinstance(result, tuple) and len(result) in (2, 3)):
            raise PortError(
                "the NumPy function has a backward and must return (outputs, cache), or (outputs, cache, new running "
                f"statistics): it returned {type(result).__name__}"
            )
        return result if len(result) == 3 else (*result, {})

    def run(self, inputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name, not recorded."""
        outputs, *_ = self.call([self.cast(np.asarray(each)) for each in inputs])
        flat = flatten_outputs(outputs)
        for name, each in flat.items():
            if not isinstance(each, (np.ndarray, np.generic, float, int)):
                raise PortError(
                    f"output {name!r} of the NumPy function is of type {type(each).__name__}, not a NumPy array: "
                    "for a JAX function pass its parameters as JAX arrays"
                )
        return {name: np.asarray(each) for name, each in flat.items()}

    def record(self, inputs: Sequence[np.ndarray], store: Store, cotangents: Cotangents | None = None) -> Recording:
        """Run forward and, given cotangents and a backward, backward; keep what every line makes."""
        recording = Recording(store)
        tracer = LineTracer(recording)
        for name, array in leaves(self.params).items():
            recording.parameters[name] = tracer.given("parameter", array, name)
        xs = [self.cast(np.asarray(each)) for each in inputs]
        recording.inputs = [tracer.given("input", x, f"input {k}") for k, x in enumerate(xs)]
        with tracer.tracing():
            outputs, cache, statistics = self.call(xs)
        recording.statistics = {name: np.asarray(each) for name, each in leaves(statistics).items()}
        made = flatten_outputs(outputs)
        recording.outputs = {name: tracer.id_of(each, "output") for name, each in made.items()}
        flat = {name: np.asarray(each) for name, each in made.items()}
        made = cotangents(flat) if cotangents and self.backward_function is not None else {}
        if made and self.backward_function is not None:
            given = rebuilt(outputs, {name: np.asarray(c, flat[name].dtype) for name, c in made.items()})
            tracer.backward = True
            for each in flatten_outputs(given).values():
                tracer.given("cotangent", each, "")
            with tracer.tracing():
                grads = self.backward_function(given, cache)
            self.keep_gradients(recording, tracer, grads)
        return recording

    def train_steps(
        self, inputs: Sequence[np.ndarray], cotangents: Mapping[str, np.ndarray], steps: int, optimizer: Any
    ) -> list[dict[str, np.ndarray]]:
        """Trained parameters before the first step and after each; ``optimizer`` is one of optax."""
        import jax

        assert self.backward_function is not None
        before = self.params
        with jax.enable_x64(self.dtype == np.float64):
            params = {name: leaf.array for name, leaf in self.leaves().items() if leaf.trained}
            state, history = optimizer.init(params), [params]
            for _ in range(steps):
                self.assign(params)
                outputs, cache, _ = self.call([self.cast(np.asarray(each)) for each in inputs])
                grads = leaves(self.backward_function(rebuilt(outputs, dict(cotangents)), cache))
                grads = {name: np.asarray(grads.get(name, np.zeros_like(p))) for name, p in params.items()}
                changes, state = optimizer.update(grads, state, params)
                params = {name: np.asarray(p + changes[name]) for name, p in params.items()}
                history.append(params)
        self.params = before
        return [{name: np.asarray(p, np.float64) for name, p in each.items()} for each in history]

    def keep_gradients(self, recording: Recording, tracer: LineTracer, grads: Any) -> None:
        """Read what backward returned, by the names of the parameters."""
        if not isinstance(grads, Mapping):
            raise PortError(
                f"the NumPy backward must return a dict of gradients like params: it returned {type(grads).__name__}"
            )
        found = leaves(grads)
        known = self.leaves()
        trained = {name for name, leaf in known.items() if leaf.trained or name in found}
        if unknown := sorted(found.keys() - known.keys()):
            raise PortError(f"the NumPy backward returned gradients of no parameter: {', '.join(unknown)}")
        for name in trained:
            recording.gradients[name] = None if name not in found else np.asarray(found[name])
            if name in found:
                recording.made_gradients[name] = tracer.id_of(np.asarray(found[name]), "gradient")


def rebuilt(outputs: Any, flat: Mapping[str, np.ndarray], prefix: str = "") -> Any:
    """Arrays by path in the structure of the outputs."""
    if isinstance(outputs, Mapping):
        return {key: rebuilt(each, flat, f"{prefix}/{key}" if prefix else str(key)) for key, each in outputs.items()}
    if isinstance(outputs, (tuple, list)):
        parts = [rebuilt(each, flat, f"{prefix}/{k}" if prefix else str(k)) for k, each in enumerate(outputs)]
        return type(outputs)(parts)
    return flat.get(prefix or "output")
