"""JAX: a pure function with its parameters, a Flax NNX module, a Flax Linen module with its variables.

All three become one pure function of (trained parameters, the other state, inputs), whose jaxpr is recorded.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from compare.ports.jaxpr import Evaluator, as_numpy
from compare.ports.recording import Recording, Store
from compare.ports.side import Cotangents, Leaf, PortError, flatten_outputs

Pure = Callable[..., tuple[Any, Any]]  # (params, rest, *inputs) -> (outputs, new rest)
STATISTICS = ("mean", "var")


class JaxSide:
    """A pure function of its state, evaluated equation by equation."""

    has_gradients = True

    def __init__(
        self,
        kind: str,
        pure: Pure,
        params: Any,
        rest: Any,
        *,
        precision: str,
        mirrored: Mapping[str, bool] | None = None,
    ):
        self.kind, self.pure, self.precision, self.mirrored = kind, pure, precision, dict(mirrored or {})
        self.params, self.rest = self.cast(params), self.cast(rest)
        self._leaves: dict[str, Leaf] | None = None

    def cast(self, tree: Any) -> Any:
        """Floats of a tree in the precision of the check."""

        def cast(leaf: Any) -> Any:
            floating = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
            return jnp.asarray(leaf, self.precision) if floating and self.precision != "as-is" else leaf

        with self.exact():
            return jax.tree.map(cast, tree)

    def exact(self) -> Any:
        """JAX in full precision, with float64 where the check asks for it."""
        return _Exact(self.precision)

    def leaves(self) -> dict[str, Leaf]:
        """Parameters and running statistics by path."""
        found: dict[str, Leaf] = {}
        for trained, tree in ((True, self.params), (False, self.rest)):
            for name, leaf in named(tree).items():
                last = name.rpartition("/")[2]
                if trained or last in STATISTICS:
                    learnt = trained and (self.kind != "JAX" or last not in STATISTICS)  # there only names tell
                    mirrored = self.mirrored.get(name)
                    axes = axes_of(last, np.ndim(leaf))
                    axes = axes.replace("io", "oi") if axes and mirrored else axes
                    found[name] = Leaf(as_numpy(leaf), axes, len(found), learnt, mirrored)
        return found

    def assign(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Replace leaves by path."""

        def replace(tree: Any) -> Any:
            flat, structure = jax.tree_util.tree_flatten_with_path(tree)
            leaves = [arrays.get(path_name(path), leaf) for path, leaf in flat]
            given = [
                jnp.asarray(new, old.dtype) if path_name(path) in arrays else old
                for new, (path, old) in zip(leaves, flat, strict=True)
            ]
            return jax.tree_util.tree_unflatten(structure, given)

        with self.exact():
            self.params, self.rest = replace(self.params), replace(self.rest)

    def arrays(self, inputs: Sequence[np.ndarray]) -> list[Any]:
        """Inputs in the precision of the check."""
        return self.cast([jnp.asarray(each) for each in inputs])

    def run(self, inputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name, not recorded."""
        with self.exact():
            outputs, _ = self.pure(self.params, self.rest, *self.arrays(inputs))
            return {name: as_numpy(each) for name, each in flatten_outputs(outputs).items()}

    def record(self, inputs: Sequence[np.ndarray], store: Store, cotangents: Cotangents | None = None) -> Recording:
        """Run forward and, given cotangents, backward; keep every value."""
        with self.exact():
            return self._record(inputs, store, cotangents)

    def _record(self, inputs: Sequence[np.ndarray], store: Store, cotangents: Cotangents | None) -> Recording:
        recording = Recording(store)
        evaluator = Evaluator(recording, taping=cotangents is not None)
        names: list[str] = []

        def function(params: Any, rest: Any, *xs: Any) -> Any:
            outputs, new = self.pure(params, rest, *xs)
            flat = flatten_outputs(outputs)
            names[:] = flat
            return [jnp.asarray(each) for each in flat.values()], new

        xs = self.arrays(inputs)
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(self.params, self.rest, *xs)
        flat = jax.tree_util.tree_flatten_with_path((self.params, self.rest, *xs))[0]
        arguments = []
        for path, array in flat:
            group, name = path[0].idx, path_name(path[1:])
            op = "input" if group > 1 else "parameter"
            number = recording.add(op, as_numpy(array), path=name, dtype=str(array.dtype))
            if group > 1:
                recording.inputs.append(number)
            elif group == 0 or name in self.leaves():
                recording.parameters[name] = number
            if group != 1 and jnp.issubdtype(array.dtype, jnp.inexact):
                evaluator.active.add(number)
            arguments.append((array, number))
        consts = [evaluator.constant(const) for const in closed.consts]
        made = evaluator.run(closed.jaxpr, consts, arguments)
        outputs = made[: len(names)]
        recording.outputs = {name: number for name, (_, number) in zip(names, outputs, strict=True)}
        new = jax.tree_util.tree_unflatten(jax.tree.structure(shapes[1]), [array for array, _ in made[len(names) :]])
        statistics = {name for name, leaf in self.leaves().items() if not leaf.trained}
        recording.statistics = {name: as_numpy(leaf) for name, leaf in named(new).items() if name in statistics}
        of_outputs = {name: as_numpy(array) for name, (array, _) in zip(names, outputs, strict=True)}
        given = cotangents(of_outputs) if cotangents else {}
        if given:
            floating = [k for k, name in enumerate(names) if name in given]
            totals = evaluator.backward([outputs[k] for k in floating], [given[names[k]] for k in floating])
            for name in named(self.params):
                total = totals.pop(recording.parameters[name], None)
                recording.gradients[name] = None if total is None else as_numpy(total)
        return recording

    def train_steps(
        self, inputs: Sequence[np.ndarray], cotangents: Mapping[str, np.ndarray], steps: int, optimizer: Any
    ) -> list[dict[str, np.ndarray]]:
        """Trained parameters before the first step and after each; ``optimizer`` is one of optax."""
        with self.exact():
            xs, params, rest = self.arrays(inputs), self.params, self.rest

            def loss(params: Any, rest: Any) -> Any:
                outputs, new = self.pure(params, rest, *xs)
                flat = flatten_outputs(outputs)
                return sum(jnp.vdot(jnp.asarray(each), flat[name]) for name, each in cotangents.items()), new

            state, history = optimizer.init(params), [params]
            for _ in range(steps):
                grads, rest = jax.grad(loss, has_aux=True)(params, rest)
                changes, state = optimizer.update(grads, state, params)
                params = jax.tree.map(lambda p, change: p + change, params, changes)
                history.append(params)
            return [{name: np.asarray(leaf, np.float64) for name, leaf in named(each).items()} for each in history]


class _Exact:
    """``jax.enable_x64`` and the highest matmul precision, while it lasts."""

    def __init__(self, precision: str):
        wide = precision == "float64" or (precision == "as-is" and jax.config.jax_enable_x64)
        self.contexts = [jax.enable_x64(wide), jax.default_matmul_precision("highest")]
        self.optimised = jax.config.read("jax_disable_most_optimizations")

    def __enter__(self) -> None:
        jax.config.update("jax_disable_most_optimizations", True)  # programs that run once: most time is compilation
        for context in self.contexts:
            context.__enter__()

    def __exit__(self, *error: Any) -> None:
        jax.config.update("jax_disable_most_optimizations", self.optimised)
        for context in reversed(self.contexts):
            context.__exit__(*error)


def path_name(path: Any) -> str:
    """A path of a pytree as ``a/b/0``."""
    parts = []
    for entry in path:
        part = next(getattr(entry, name) for name in ("key", "name", "idx") if hasattr(entry, name))
        parts.append(str(part))
    return "/".join(parts)


def named(tree: Any) -> dict[str, Any]:
    """Leaves of a pytree by path."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def axes_of(name: str, ndim: int) -> str | None:
    """The axes that a leaf of this name has by the conventions of Flax."""
    if ndim == 1:
        return "c"
    if name == "embedding":
        return "vd"
    return {2: "io", 3: "wio", 4: "hwio", 5: "dhwio"}.get(ndim) if name in ("kernel", "w", "W", "weight") else None


def pure_function(function: Callable[..., Any], params: Any, *, train: bool, precision: str) -> JaxSide:
    """A function ``f(params, *inputs)``; ``train`` is passed to it if it takes such an argument."""
    extra = mode_arguments(function, train)
    return JaxSide(
        "JAX", lambda params, rest, *xs: (function(params, *xs, **extra), rest), params, {}, precision=precision
    )


def mode_arguments(function: Callable[..., Any], train: bool) -> dict[str, bool]:
    """The keyword argument that sets the mode of a function; empty if it has none."""
    known = {"train": train, "training": train, "is_training": train, "deterministic": not train}
    try:
        taken = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
    return {name: value for name, value in known.items() if name in taken}


def nnx_module(module: Any, *, train: bool, precision: str) -> JaxSide:
    """A Flax NNX module, copied; ``train()`` or ``eval()`` is called on the copy."""
    from flax import nnx

    copied = nnx.clone(module)
    copied.train() if train else copied.eval()
    graphdef, params, rest = nnx.split(copied, nnx.Param, ...)
    transposed = ((path, each) for path, each in nnx.iter_modules(copied) if isinstance(each, nnx.ConvTranspose))
    mirrored = {"/".join(map(str, (*path, "kernel"))): each.transpose_kernel for path, each in transposed}

    def pure(params: Any, rest: Any, *xs: Any) -> tuple[Any, Any]:
        made = nnx.merge(graphdef, nnx.restore_int_paths(params), nnx.restore_int_paths(rest), copy=True)
        outputs = made(*xs)
        return outputs, nnx.to_pure_dict(nnx.split(made, nnx.Param, ...)[2])

    states = nnx.to_pure_dict(params), nnx.to_pure_dict(rest)
    return JaxSide("Flax NNX", pure, *states, precision=precision, mirrored=mirrored)


def linen_module(module: Any, variables: Mapping[str, Any], *, train: bool, precision: str) -> JaxSide:
    """A Flax Linen module with its variables."""
    if "params" not in variables:
        raise PortError("the variables of a Flax Linen module have no 'params': pass what module.init() returns")
    extra = mode_arguments(type(module).__call__, train)
    rest = {name: part for name, part in variables.items() if name != "params"}

    def pure(params: Any, rest: Any, *xs: Any) -> tuple[Any, Any]:
        given, keys = {"params": params, **rest}, {"dropout": jax.random.key(0)} if train else {}
        if not train:
            return module.apply(given, *xs, **extra), rest
        outputs, new = module.apply(given, *xs, **extra, mutable=list(rest), rngs=keys)
        return outputs, {**rest, **new}

    return JaxSide("Flax Linen", pure, dict(variables["params"]), rest, precision=precision)
