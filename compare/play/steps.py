"""The forward and the backward pass of a network for one image, one function of ``numpy_nn`` after the other.

While the NumPy network runs, ``compare.training.call_recorder`` records the functions that the model's own lines call:
what they return, and which line called them. Functions within functions (the matmuls of an attention) are no steps.
"""

from __future__ import annotations

import inspect
import linecache
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from compare.play import gradients
from compare.play.activations import drawn, label
from compare.play.gradients import gap
from compare.training.call_recorder import watching
from compare.weights.network import Network
from numpy_nn.network_file import PREFIX
from numpy_nn.train import preprocess
from numpy_nn.tree import Tree, leaves

ROOT = Path(__file__).parents[2]
MODELS = ("numpy_nn.models.", PREFIX)  # modules whose lines are the steps
BINS = 31  # of a histogram


@dataclass
class Step:
    """One function call of a pass: the array that is shown, and where the function and its call stand."""

    direction: str  # forward or backward
    name: str
    array: np.ndarray  # forward: what it returns; backward: the gradient that it is called with
    what: str  # of the array
    taken: tuple[int, ...] | None  # shape of the main argument
    given: tuple[int, ...] | None  # shape of the main result
    function: Any = None
    line: tuple[str, int] | None = None  # file and number of the call
    cache: Any = None
    parameters: list[str] = field(default_factory=list)  # paths of those whose gradients it computes


def walk(network: Network, x: np.ndarray, chosen: int) -> tuple[list[Step], Tree]:
    """Return the steps for an image uint8 (h, w, c) and the class whose logit is differentiated, and the gradients."""
    state, batch = network.state("numpy"), gradients.beside(x[None])
    dlogits = np.eye(len(network.classes), dtype=np.float32)[[chosen]]
    pixels = preprocess(batch, state.mean, state.std)
    steps = [Step("forward", "picture", pixels, "normalized pixels", None, pixels.shape)]

    def computed(name: str, values: Mapping[str, Any], answer: Any) -> None:
        if line := calling_line():
            y, cache = (answer[0], answer[-1]) if isinstance(answer, tuple) else (answer, None)
            title = label(name, values)
            steps.append(Step("forward", title, y, "output", first(values), y.shape, find(name), line, cache))

    with watching(functions(state.model, "_forward"), computed):
        cache = gradients.forward(state, batch)
    backward: list[Step] = []

    def called(name: str, values: Mapping[str, Any], _: Any) -> None:
        if line := calling_line():
            dy = next(value for value in values.values() if isinstance(value, np.ndarray))
            of = values.get("cache")
            twin = next((each for each in reversed(steps) if each.cache is of and pair(each) == name), None)
            title = twin.name if twin else label(name.replace("backward", "forward"), {})
            backward.append(Step("backward", title, dy, "gradient of the output", dy.shape, None, find(name), line))

    returned: list[tuple[Any, ...]] = []

    def differentiated(name: str, values: Mapping[str, Any], answer: Any) -> None:
        if calling_line():
            returned.append(answer if isinstance(answer, tuple) else (answer,))

    with watching(functions(state.model, "_backward"), called, on="call"):
        state.model.backward(dlogits, cache)
    with watching(functions(state.model, "_backward"), differentiated):
        grads = state.model.backward(dlogits, cache)
    for step, results in zip(backward, returned, strict=True):
        step.given = None if results[0] is None else np.shape(results[0])
        arrays = [leaf for each in results for leaf in (leaves(each).values() if isinstance(each, dict) else [each])]
        step.parameters = [path for path, leaf in leaves(grads).items() if any(leaf is each for each in arrays)]
    dx = gradients.GRADIENTS["numpy"](state, batch, dlogits)
    last = Step("backward", "pixels", dx, "gradient of the pixels in 0 .. 1", None, dx.shape)
    return [*steps, *backward, last], grads


def described(network: Network, x: np.ndarray, chosen: int, at: int, tracks: list[str]) -> dict[str, Any]:
    """Return the names of all steps and the details of one of them, as JSON that the page shows.

    A backward step that computes the gradients of parameters has, for each, the largest difference of the tracks.
    """
    steps, grads = walk(network, x, chosen)
    at = min(max(at, 0), len(steps) - 1)
    step = steps[at]
    values = step.array[0]
    counts, edges = np.histogram(values, BINS)
    return {
        "all": [{"direction": each.direction, "name": each.name} for each in steps],
        "at": at,
        "class": chosen,
        "what": step.what,
        "taken": step.taken,
        "given": step.given,
        "says": "" if step.function is None else (inspect.getdoc(step.function) or "").partition("\n")[0],
        "where": "" if step.function is None else place(step.function.__code__.co_filename, step.function),
        "line": None if step.line is None else {"where": place(*step.line), "code": source(*step.line)},
        "histogram": {"counts": counts.tolist(), "low": float(edges[0]), "high": float(edges[-1])},
        "mean": float(values.mean()),
        "std": float(values.std()),
        "zeros": float((values == 0).mean()),
        "parameters": agreement(network, x, chosen, step, grads, tracks) if step.parameters else [],
        **drawn(values),
    }


def agreement(
    network: Network, x: np.ndarray, chosen: int, step: Step, grads: Tree, tracks: list[str]
) -> list[dict[str, Any]]:
    """Return ``path``, ``shape``, ``largest`` and the tracks' ``gap`` of the gradients that a step computes."""
    dlogits = np.eye(len(network.classes), dtype=np.float32)[[chosen]]
    trees = {"numpy": leaves(grads)}
    for track in tracks:
        if track != "numpy":
            trees[track] = leaves(gradients.parameter_gradients(network, x[None], dlogits, track))
    found = []
    for path in step.parameters:
        arrays = {track: np.asarray(tree[path]) for track, tree in trees.items() if track in tracks}
        own = trees["numpy"][path]
        found.append({"path": path, "shape": own.shape, "largest": float(np.abs(own).max()), "gap": gap(arrays)})
    return found


# --- functions and lines ----------------------------------------------------------------------------------------------


def functions(model: Any, ending: str) -> dict[str, str]:
    """Return the functions of ``numpy_nn``, and of the model's own file, whose names end so, and their modules."""
    modules = [name for name in sys.modules if name.startswith("numpy_nn.")] + [type(model).__module__]
    return {
        name: module
        for module in modules
        for name, value in vars(sys.modules[module]).items()
        if name.endswith(ending) and getattr(value, "__module__", "") == module
    }


def find(name: str) -> Any:
    """Return the function of this name that is being recorded, without what checks its arguments in the tests."""
    frame = recorded_frame()
    return inspect.unwrap(frame.f_globals[name])


def recorded_frame() -> FrameType:
    """Return the frame of the recorded function: the innermost one below the recorder's."""
    frame: FrameType | None = sys._getframe(1)
    while frame and frame.f_code.co_name != "watch":
        frame = frame.f_back
    assert frame
    assert frame.f_back
    return frame.f_back


def calling_line() -> tuple[str, int] | None:
    """Return file and line of the call of the recorded function; None if another function of ``numpy_nn`` made it."""
    frame = recorded_frame().f_back
    while frame and not frame.f_globals.get("__name__", "").startswith(("numpy_nn.", PREFIX)):
        frame = frame.f_back
    if frame is None or not frame.f_globals["__name__"].startswith(MODELS):
        return None
    return frame.f_code.co_filename, frame.f_lineno


def first(values: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return the shape of the first argument that is an array."""
    return next((np.shape(value) for value in values.values() if isinstance(value, np.ndarray)), None)


def pair(step: Step) -> str:
    """Return the name of the backward function of a forward step."""
    return "" if step.function is None else str(step.function.__name__).replace("_forward", "_backward")


def place(file: str, at: Any) -> str:
    """Return ``numpy_nn/conv.py:87`` of a file and a line, or a function in it."""
    path, number = Path(file), at if isinstance(at, int) else at.__code__.co_firstlineno
    return f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name}:{number}"


def source(file: str, line: int) -> str:
    """Return a line of a file."""
    return linecache.getline(file, line).strip()
