"""Evaluate a jaxpr equation by equation, and take its gradient the same way.

Functions inside (``jit``, ``custom_jvp``, ``custom_vjp``, ``remat``, the taken branch of ``cond``, every step of
``scan`` and ``while``) are entered, so that each of their values is recorded with its line. A function with a gradient
of its own is one operation for the gradient.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import source_info_util  # jax.extend has the traceback, but not its frames
from jax.extend.core import ClosedJaxpr, Literal, Var

from compare.ports.frames import PACKAGE, Frame, definition, is_own, own
from compare.ports.recording import Edge, Recording

INLINED = ("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "custom_lin")
OWN_GRADIENT = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")
RANDOM = ("random_bits", "random_seed", "random_wrap", "random_fold_in", "random_split", "threefry2x32")

Pair = tuple[Any, int]  # an array and the id of its value


class Operation:
    """One differentiable equation on the tape: its function, where its arrays came from and went."""

    __slots__ = ("arrays", "function", "inputs", "outputs")

    def __init__(self, function: Callable[..., Any], arrays: list[Any], inputs: list[int], outputs: list[Pair]) -> None:
        self.function, self.arrays, self.inputs, self.outputs = function, arrays, inputs, outputs


class Evaluator:
    """Evaluates a jaxpr into a recording; ``tape`` is what the gradient needs."""

    def __init__(self, recording: Recording, *, taping: bool) -> None:
        self.recording = recording
        self.tape: list[Operation] = []
        self.active: set[int] = set()  # values that depend on a parameter or an input by a differentiable path
        self.taping, self.inside = taping, False

    def constant(self, array: Any) -> Pair:
        """Record an array that no equation made."""
        return array, self.recording.add("constant", as_numpy(array), dtype=str(jnp.result_type(array)))

    def run(
        self, jaxpr: Any, consts: Sequence[Pair], arguments: Sequence[Pair], outer: tuple[Frame, ...] = ()
    ) -> list[Pair]:
        """Evaluate every equation; ``outer`` are the lines that this jaxpr was called from."""
        values: dict[Var, Pair] = dict(zip(jaxpr.constvars, consts, strict=True))
        values |= dict(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> Pair:
            return self.constant(atom.val) if isinstance(atom, Literal) else values[atom]

        for equation in jaxpr.eqns:
            frames = lines(equation) or outer
            given = [read(atom) for atom in equation.invars]
            made = self.equation(equation, given, frames)
            values |= dict(zip(equation.outvars, made, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def equation(self, equation: Any, given: list[Pair], frames: tuple[Frame, ...]) -> list[Pair]:
        """Evaluate one equation: enter it, or have JAX compute it."""
        name, params = equation.primitive.name, equation.params
        if name in INLINED:
            inner = params.get("jaxpr", params.get("call_jaxpr"))
            return self.closed(inner, given, frames)
        if name == "cond":
            (index, _), *operands = given
            branch = params["branches"][int(np.clip(int(index), 0, len(params["branches"]) - 1))]
            return self.closed(branch, operands, frames)
        if name == "scan":
            return self.scan(params, given, frames)
        if name == "while":
            return self.while_loop(params, given, frames)
        if name in OWN_GRADIENT:
            return self.own_gradient(equation, given, frames)
        return self.atomic(equation, given, frames)

    def closed(self, inner: Any, given: Sequence[Pair], frames: tuple[Frame, ...]) -> list[Pair]:
        """Evaluate a function inside."""
        if isinstance(inner, ClosedJaxpr) or hasattr(inner, "consts"):
            return self.run(inner.jaxpr, [self.constant(const) for const in inner.consts], given, frames)
        return self.run(inner, [], given, frames)

    def atomic(self, equation: Any, given: list[Pair], frames: tuple[Frame, ...], op: str = "") -> list[Pair]:
        """Have JAX compute one equation, and record what it makes."""
        return self.apply(
            binding(equation), given, op or equation.primitive.name, frames, str(equation.source_info.name_stack)
        )

    def apply(
        self, function: Callable[..., Any], given: list[Pair], op: str, frames: tuple[Frame, ...], path: str = ""
    ) -> list[Pair]:
        """Compute one operation, record its results and put it on the tape."""
        arrays, ids = [array for array, _ in given], [number for _, number in given]
        results = function(*arrays)
        made = [(result, self.note(result, op, ids, frames, path)) for result in results]
        self.put_on_tape(function, given, made)
        return made

    def note(self, result: Any, op: str, ids: list[int], frames: tuple[Frame, ...], path: str = "", **more: Any) -> int:
        dtype = str(jnp.result_type(result)) if not jnp.issubdtype(result.dtype, jax.dtypes.prng_key) else "key"
        random = op in RANDOM
        return self.recording.add(
            op,
            as_numpy(result),
            inputs=ids,
            frames=frames,
            path=path,
            dtype=dtype,
            random=random,
            inner=self.inside,
            **more,
        )

    def put_on_tape(self, function: Callable[..., Any], given: list[Pair], made: list[Pair]) -> None:
        stopped = getattr(function, "op", "") == "stop_gradient"
        if not self.taping or stopped or not any(number in self.active for _, number in given):
            return
        floating = [pair for pair in made if is_float(pair[0])]
        if floating:
            self.tape.append(Operation(function, [a for a, _ in given], [i for _, i in given], made))
            self.active.update(number for _, number in floating)

    def own_gradient(self, equation: Any, given: list[Pair], frames: tuple[Frame, ...]) -> list[Pair]:
        """Enter a function with its own gradient to see its values, but differentiate it as a whole."""
        inner = equation.params.get("call_jaxpr", equation.params.get("fun_jaxpr"))
        before = self.taping, self.inside
        self.taping, self.inside = False, True
        made = self.closed(inner, given, frames)
        self.taping, self.inside = before
        name = equation.primitive.name
        rule = rule_of(equation)
        # the result as a value of its own: the same number may leave the function that came in
        sources = [number for _, number in given]
        made = [(array, self.note(array, name, [number, *sources], frames, rule=rule)) for array, number in made]
        self.put_on_tape(binding(equation), given, made)
        return made

    def scan(self, params: Any, given: list[Pair], frames: tuple[Frame, ...]) -> list[Pair]:
        """Take the steps of a scan one by one."""
        consts, carry = params["num_consts"], params["num_carry"]
        fixed, state, rows = given[:consts], given[consts : consts + carry], given[consts + carry :]
        steps = range(params["length"])
        kept: list[list[Pair]] = []
        for k in reversed(steps) if params["reverse"] else steps:
            take = functools.partial(_row, k)
            slices = [self.apply(take, [pair], "slice of scan", frames)[0] for pair in rows]
            made = self.closed(params["jaxpr"], [*fixed, *state, *slices], frames)
            state, outputs = made[:carry], made[carry:]
            kept.append(outputs)
        if params["reverse"]:
            kept.reverse()
        stacked = [self.apply(_stack, list(column), "stack of scan", frames)[0] for column in zip(*kept, strict=True)]
        return [*state, *stacked]

    def while_loop(self, params: Any, given: list[Pair], frames: tuple[Frame, ...]) -> list[Pair]:
        """Take the steps of a while loop, which JAX cannot differentiate backwards."""
        tests, bodies = params["cond_nconsts"], params["body_nconsts"]
        test, body, state = given[:tests], given[tests : tests + bodies], given[tests + bodies :]
        while bool(self.closed(params["cond_jaxpr"], [*test, *state], frames)[0][0]):
            state = self.closed(params["body_jaxpr"], [*body, *state], frames)
        return list(state)

    def backward(self, outputs: Sequence[Pair], cotangents: Sequence[Any]) -> dict[int, Any]:
        """Walk the tape from its end: the gradient of every value, and what each operation contributes to it.

        Returns the gradients of parameters and inputs; all are recorded.
        """
        totals: dict[int, Any] = {}
        for (array, number), cotangent in zip(outputs, cotangents, strict=True):
            if number in self.active:
                given = jnp.asarray(cotangent, array.dtype)
                totals[number] = totals[number] + given if number in totals else given
        store = self.recording.store
        kept = self.recording.totals
        while self.tape:
            operation = self.tape.pop()
            reached = [totals.pop(number, None) for _, number in operation.outputs]  # complete: free its memory
            for (_, number), total in zip(operation.outputs, reached, strict=True):
                if total is not None:
                    kept[number] = store.put(as_numpy(total))
            if all(total is None for total in reached):
                continue
            for number, grad in gradients(operation, reached, self.active):
                edge = Edge(operation.outputs[0][1], number, store.put(as_numpy(grad)))
                self.recording.edges.append(edge)
                totals[number] = totals[number] + grad if number in totals else grad
        kept |= {number: store.put(as_numpy(total)) for number, total in totals.items()}
        return totals


def gradients(operation: Operation, reached: list[Any], active: set[int]) -> list[tuple[int, Any]]:
    """The vector-Jacobian product of one operation: (value, gradient) of each active input."""
    places = [k for k, number in enumerate(operation.inputs) if number in active and is_float(operation.arrays[k])]

    def of_active(*arrays: Any) -> list[Any]:
        given = list(operation.arrays)
        for place, array in zip(places, arrays, strict=True):
            given[place] = array
        results = operation.function(*given)
        return [result for result, (array, _) in zip(results, operation.outputs, strict=True) if is_float(array)]

    _, pull = jax.vjp(of_active, *(operation.arrays[place] for place in places))
    floating = [(t, array) for t, (array, _) in zip(reached, operation.outputs, strict=True) if is_float(array)]
    grads = pull([jnp.zeros_like(array) if total is None else total for total, array in floating])
    return [(operation.inputs[p], grad) for p, grad in zip(places, grads, strict=True)]


def binding(equation: Any) -> Callable[..., list[Any]]:
    """The equation as a function of its inputs, which returns a list."""

    def function(*arrays: Any) -> list[Any]:
        results = equation.primitive.bind(*arrays, **equation.primitive.get_bind_params(equation.params))
        return list(results) if equation.primitive.multiple_results else [results]

    function.op = equation.primitive.name  # type: ignore[attr-defined]
    return function


def _row(k: int, rows: Any) -> list[Any]:
    return [rows[k]]


def _stack(*rows: Any) -> list[Any]:
    return [jnp.stack(rows)]


def is_float(array: Any) -> bool:
    """Whether a gradient can flow into it."""
    return bool(jnp.issubdtype(jnp.result_type(array), jnp.inexact))


def as_numpy(array: Any) -> np.ndarray:
    """A NumPy array; of a random key its bits, of bfloat16 float32."""
    if hasattr(array, "dtype") and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    x = np.asarray(array)
    return x.astype(np.float32) if x.dtype == jnp.bfloat16 else x


def lines(equation: Any) -> tuple[Frame, ...]:
    """The user's lines that made an equation, innermost first, up to whoever asked for the jaxpr."""
    found = []
    for frame in source_info_util.user_frames(equation.source_info.traceback):
        if frame.file_name.startswith(PACKAGE):
            break
        found.append(Frame(frame.file_name, frame.start_line, frame.function_name.rpartition(".")[2]))
    return own(found)


def rule_of(equation: Any) -> Frame | None:
    """Where a function with its own gradient defines it: the backward pass given to ``defvjp``."""
    wrapped = equation.params.get("bwd")
    function = getattr(wrapped, "f", wrapped)
    cells = [function, *(cell.cell_contents for cell in getattr(function, "__closure__", None) or ())]
    parameters = [each for group in getattr(wrapped, "transforms", ()) for each in group[1]]
    for each in [*parameters, *cells]:
        code = getattr(getattr(each, "func", each), "__code__", None)
        if code and is_own(code.co_filename):
            return definition(code)
    return None
