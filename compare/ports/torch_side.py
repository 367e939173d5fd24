"""A PyTorch module as a side of a comparison."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compare.ports.recording import Recording, Store
from compare.ports.side import Cotangents, Leaf, PortError, flatten_outputs
from compare.ports.torch_recorder import Recorder, to_numpy

STATISTICS = {"running_mean": "mean", "running_var": "var"}
TRANSPOSED = nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d


class TorchSide:
    """An ``nn.Module``, copied to the CPU: the caller's own is not touched."""

    kind, has_gradients = "PyTorch", True

    def __init__(self, module: nn.Module, *, train: bool, precision: str):
        tensors = [*module.parameters(), *module.buffers()]
        if any(nn.parameter.is_lazy(each) for each in tensors):
            raise PortError("the PyTorch module has lazy parameters without a shape: call it once on an input before")
        if any(each.is_meta for each in tensors):
            raise PortError("the PyTorch module has parameters on the meta device, without values: load weights before")
        self.module = copy.deepcopy(module).cpu().train(train)
        self.train = train
        if precision != "as-is":
            self.module.to(getattr(torch, precision))
        for parameter in self.module.parameters():
            parameter.requires_grad_(True)
        self.start = {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        floating = [tensor.dtype for tensor in self.module.parameters() if tensor.is_floating_point()]
        self.dtype = getattr(torch, precision) if precision != "as-is" else (floating or [torch.float32])[0]

    def leaves(self) -> dict[str, Leaf]:
        """Parameters and running statistics by PyTorch's names; shared ones once, under their first name."""
        found = {}
        for module_path, module in self.module.named_modules():
            prefix = f"{module_path}." if module_path else ""
            for name, tensor in module.named_parameters(recurse=False):
                found[prefix + name] = Leaf(as_view(tensor), axes_of(module, name, tensor))
                if isinstance(module, TRANSPOSED):
                    found[prefix + name].mirrored = True
            for name, tensor in module.named_buffers(recurse=False):
                if name in STATISTICS:
                    found[prefix + name] = Leaf(as_view(tensor), "c", trained=False)
        names = [name for name, _ in self.module.named_parameters()]
        found = {name: leaf for name, leaf in found.items() if not leaf.trained or name in names}
        for order, name in enumerate(found):
            found[name].order = order
        return found

    def assign(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Replace leaves, whatever the names of tied parameters."""
        own_tensors = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
        with torch.no_grad():
            for name, array in arrays.items():
                own_tensors[name].copy_(torch.from_numpy(np.array(array)))
        self.start = {name: buffer.clone() for name, buffer in self.module.named_buffers()}

    def reset(self) -> None:
        """Give every buffer, such as running statistics, the value that it began with."""
        with torch.no_grad():
            for name, buffer in self.module.named_buffers():
                buffer.copy_(self.start[name])

    def tensors(self, inputs: Sequence[np.ndarray]) -> list[Tensor]:
        """Inputs as tensors: floats in the module's precision, integers as int64."""
        made = []
        for each in inputs:
            tensor = torch.from_numpy(np.array(each))
            made.append(tensor.to(self.dtype) if tensor.is_floating_point() else tensor.long())
        return made

    def call(self, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Outputs by name."""
        outputs = {}
        with default_dtype(self.dtype):
            made = as_plain(self.module(*inputs))
        for name, output in flatten_outputs(made).items():
            if not isinstance(output, Tensor):
                raise PortError(f"output {name!r} of the PyTorch module is {type(output).__name__}, not a tensor")
            outputs[name] = output
        return outputs

    def run(self, inputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name, not recorded."""
        self.reset()
        with torch.no_grad():
            outputs = {name: to_numpy(output) for name, output in self.call(self.tensors(inputs)).items()}
        self.reset()
        return outputs

    def record(self, inputs: Sequence[np.ndarray], store: Store, cotangents: Cotangents | None = None) -> Recording:
        """Run forward and, given cotangents, backward; keep every value."""
        self.reset()  # the running statistics, too, are those of the beginning
        recorder = Recorder(Recording(store))
        parameters = dict(self.module.named_parameters())
        for name in self.leaves():
            tensor = parameters.get(name)
            if tensor is None:
                tensor = self.module.get_buffer(name)
            recorder.recording.parameters[name] = recorder.given("parameter", tensor, name)
        tensors = self.tensors(inputs)
        for k, tensor in enumerate(tensors):
            if tensor.is_floating_point() and cotangents is not None:
                tensor.requires_grad_(True)
            recorder.recording.inputs.append(recorder.given("input", tensor, f"input {k}"))
        for parameter in parameters.values():
            parameter.grad = None
        with torch.set_grad_enabled(cotangents is not None), recorder.watching(self.module):
            outputs = self.call(tensors)
        recorder.recording.outputs = {name: recorder.id_of(output) for name, output in outputs.items()}
        given = cotangents({name: to_numpy(output) for name, output in outputs.items()}) if cotangents else {}
        if given:
            with default_dtype(self.dtype):
                recorder.backward(outputs, given)
            for name, leaf in self.leaves().items():
                if leaf.trained:
                    grad = parameters[name].grad
                    recorder.recording.gradients[name] = None if grad is None else as_view(grad)
                    parameters[name].grad = None
        statistics = [name for name, leaf in self.leaves().items() if not leaf.trained]
        recorder.recording.statistics = {name: to_numpy(self.module.get_buffer(name)).copy() for name in statistics}
        self.reset()
        return recorder.recording

    def train_steps(
        self, inputs: Sequence[np.ndarray], cotangents: Mapping[str, np.ndarray], steps: int, optimizer: Any
    ) -> list[dict[str, np.ndarray]]:
        """Trained parameters before the first step and after each; ``optimizer`` takes the parameters."""
        self.reset()
        before = copy.deepcopy(self.module.state_dict())
        chosen = optimizer(list(self.module.parameters()))
        history = [self.snapshot()]
        for _ in range(steps):
            chosen.zero_grad()
            outputs = self.call(self.tensors(inputs))
            given = [torch.from_numpy(np.array(each)).to(outputs[name].dtype) for name, each in cotangents.items()]
            torch.autograd.backward([outputs[name] for name in cotangents], given)
            chosen.step()
            history.append(self.snapshot())
        self.module.load_state_dict(before)
        return history

    def snapshot(self) -> dict[str, np.ndarray]:
        """Copies of the parameters in float64."""
        return {name: to_numpy(each).astype(np.float64) for name, each in self.module.named_parameters()}


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Tensors that the model makes, as with ``torch.zeros``, in the precision of the check."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def axes_of(module: nn.Module, name: str, tensor: Tensor) -> str | None:
    """The axes of a parameter, as far as the type of its module tells."""
    if tensor.ndim == 1:
        return "c"
    if isinstance(module, nn.Embedding):
        return "vd"
    if isinstance(module, TRANSPOSED):
        return {3: "iow", 4: "iohw", 5: "iodhw"}[tensor.ndim]
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return {3: "oiw", 4: "oihw", 5: "oidhw"}[tensor.ndim]
    if isinstance(module, (nn.Linear, nn.RNNBase, nn.MultiheadAttention)) and tensor.ndim == 2:
        return "oi"
    return None


def as_plain(outputs: Any) -> Any:
    """Outputs of a model that returns an object with named fields, as a dictionary."""
    fields = getattr(outputs, "__dataclass_fields__", None)
    return {name: getattr(outputs, name) for name in fields} if fields else outputs


def as_view(tensor: Tensor) -> np.ndarray:
    """The tensor's own memory in NumPy; of bfloat16, which NumPy lacks, a copy."""
    return to_numpy(tensor) if tensor.dtype == torch.bfloat16 else tensor.detach().numpy()
