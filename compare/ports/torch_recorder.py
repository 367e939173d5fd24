"""PyTorch's forward and backward pass: every ATen operation with its line, every node of the autograd graph."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from compare.ports.frames import Frame, definition, is_own, stack
from compare.ports.recording import Edge, Recording
from compare.ports.torch_steps import steps_inside

FUNCTION = os.path.join("torch", "autograd", "function.py")


class Recorder(TorchDispatchMode):
    """Record what every operation computes.

    A tensor is known again by its memory, shape and strides, for autograd wraps views into new objects. An operation
    in place makes a new value.
    """

    def __init__(self, recording: Recording) -> None:
        super().__init__()
        self.recording = recording
        self.alive: list[Any] = []  # memory that is not freed cannot be mistaken for other memory
        self.known: dict[tuple[Any, ...], list[int]] = {}
        self.nodes: dict[tuple[Any, int], int] = {}  # (autograd node, output) -> value
        self.path: list[str] = []

    def given(self, op: str, tensor: Tensor, path: str) -> int:
        """Record what is there before the first operation."""
        number = self.recording.add(op, to_numpy(tensor), path=path, dtype=str(tensor.dtype).removeprefix("torch."))
        self.remember(tensor, number)
        return number

    def remember(self, tensor: Tensor, number: int) -> None:
        self.alive.append(tensor)
        self.known.setdefault(key(tensor), []).append(number)

    def id_of(self, tensor: Tensor) -> int:
        """Find the value that a tensor holds, and note which node of the autograd graph made it."""
        numbers = self.known.get(key(tensor))
        if numbers is None:
            number = self.recording.add("constant", to_numpy(tensor), dtype=str(tensor.dtype).removeprefix("torch."))
            self.remember(tensor, number)
            return number
        number = numbers[-1]
        node = tensor.grad_fn
        if node is not None:
            kind = node.name().lower()
            for candidate in reversed(numbers):
                if self.recording.values[candidate].op.strip("_").replace("_", "") in kind:
                    number = candidate
                    break
            self.alive.append(node)
            self.nodes[node, tensor.output_nr] = number
        elif tensor.requires_grad:
            number = numbers[0]
        return number

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        ids = {id(each): self.id_of(each) for each in given}
        outputs = func(*args, **(kwargs or {}))
        op = func.__name__.partition(".")[0]
        if "empty" in op and isinstance(outputs, Tensor):
            outputs.zero_()  # whatever lay in that memory is no value of the model
        more = {
            "frames": stack(sys._getframe(1)),
            "path": self.path[-1] if self.path else "",
            "inner": in_function(sys._getframe(1)),
            "random": torch.Tag.nondeterministic_seeded in func.tags,
        }
        steps: dict[str, int] = {}
        for step in steps_inside(op, args, outputs):
            sources = [steps[name] if isinstance(name, str) else ids[id(args[name])] for name in step.sources]
            steps[step.name] = self.recording.add(
                step.name, to_numpy(step.value), inputs=sources, **more | {"inner": True}
            )
        inputs = [*ids.values(), *list(steps.values())[-1:]]
        for output in tree_leaves(outputs):
            if isinstance(output, Tensor):
                dtype = str(output.dtype).removeprefix("torch.")
                self.remember(output, self.recording.add(op, to_numpy(output), inputs=inputs, dtype=dtype, **more))
        return outputs

    @contextmanager
    def watching(self, module: nn.Module) -> Iterator[None]:
        """Record what happens inside, with the path of the module that it happens in; attention unfused."""

        def enter(path: str) -> Any:
            return lambda *_: self.path.append(path)

        def leave(*_: Any) -> None:
            self.path.pop()

        with ExitStack() as hooks:
            for path, each in module.named_modules():
                if isinstance(each, torch.jit.ScriptModule):
                    continue
                hooks.callback(each.register_forward_pre_hook(enter(path)).remove)
                hooks.callback(each.register_forward_hook(leave, always_call=True).remove)
            hooks.enter_context(sdpa_kernel(SDPBackend.MATH))
            hooks.enter_context(self)
            yield

    def backward(self, outputs: Mapping[str, Tensor], cotangents: Mapping[str, np.ndarray]) -> None:
        """Record the gradient of every value, and what each consumer contributes to it."""
        recording = self.recording
        trained = [name for name in cotangents if outputs[name].requires_grad]
        if not trained:
            recording.notes.append("no output of the PyTorch module depends on a parameter by a differentiable path")
            return
        nodes, handles = reachable(outputs[name].grad_fn for name in trained), []
        producers: dict[Any, int] = {}
        for (node, _), number in self.nodes.items():
            producers[node] = max(number, producers.get(node, -1))
        leaves = {tensor: number for number, tensor in self.leaf_tensors()}

        def seen(node: Any) -> Any:
            def hook(grad_inputs: Any, grad_outputs: Any) -> None:
                for place, grad in enumerate(grad_outputs):
                    if grad is not None and (node, place) in self.nodes:
                        recording.totals[self.nodes[node, place]] = recording.store.put(to_numpy(grad))
                for grad, (source, place) in zip(grad_inputs, node.next_functions, strict=False):
                    if grad is None or source is None or node not in producers:
                        continue
                    variable = getattr(source, "variable", None)
                    value = self.nodes.get((source, place)) if variable is None else leaves.get(variable)
                    if value is not None:
                        edge = Edge(producers[node], value, recording.store.put(to_numpy(grad)))
                        recording.edges.append(edge)

            return hook

        for node in nodes:
            if getattr(node, "variable", None) is None:
                handles.append(node.register_hook(seen(node)))
                if node in producers and hasattr(node, "_forward_cls"):
                    recording.values[producers[node]].rule = rule_of(node._forward_cls)
        given = [torch.from_numpy(np.array(cotangents[name])).to(outputs[name].dtype) for name in trained]
        torch.autograd.backward([outputs[name] for name in trained], given)
        for handle in handles:
            handle.remove()
        for tensor, number in leaves.items():
            if tensor.grad is not None:
                recording.totals[number] = recording.store.put(to_numpy(tensor.grad))

    def leaf_tensors(self) -> Iterator[tuple[int, Tensor]]:
        """Parameters and inputs with their values."""
        for tensor in self.alive:
            if isinstance(tensor, Tensor) and tensor.is_leaf and tensor.requires_grad:
                yield self.known[key(tensor)][0], tensor


def key(tensor: Tensor) -> tuple[Any, ...]:
    """Tell one tensor from all others that are alive."""
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype


def reachable(roots: Any) -> list[Any]:
    """All nodes of the autograd graph below the roots."""
    found, open_ = {}, [root for root in roots if root is not None]
    while open_:
        node = open_.pop()
        if node not in found:
            found[node] = True
            open_ += [source for source, _ in node.next_functions if source is not None]
    return list(found)


def in_function(frame: FrameType | None) -> bool:
    """Whether a stack leads through the forward pass of a ``torch.autograd.Function``."""
    while frame is not None:
        if frame.f_code.co_name == "apply" and frame.f_code.co_filename.endswith(FUNCTION):
            return True
        frame = frame.f_back
    return False


def rule_of(function: Any) -> Frame | None:
    """Where a ``torch.autograd.Function`` defines its gradient."""
    code = function.backward.__code__
    return definition(code) if is_own(code.co_filename) else None


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A copy in NumPy, bfloat16 as float32."""
    plain = tensor.detach().resolve_conj().resolve_neg()
    return (plain.float() if plain.dtype == torch.bfloat16 else plain).cpu().numpy().copy()
