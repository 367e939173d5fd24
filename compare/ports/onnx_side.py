"""An ONNX file: its nodes, computed one by one by ONNX's reference evaluator. It has no gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compare.errors import require_packages
from compare.ports.frames import Frame
from compare.ports.recording import Recording, Store
from compare.ports.side import Cotangents, Leaf, PortError


class OnnxSide:
    """A model read from a file; initialisers of floats are its leaves."""

    kind, has_gradients = "ONNX", False

    def __init__(self, path: Path, *, precision: str):
        require_packages("an ONNX file", "onnx", extra="export")
        import onnx
        from onnx import numpy_helper

        if not path.is_file():
            raise PortError(f"{path}: no such file")
        try:
            self.model = onnx.load(str(path))
        except Exception as error:  # protobuf raises what it likes
            raise PortError(f"{path} is not an ONNX model: {error}") from error
        self.path, self.precision = path, precision
        self.dtype = None if precision == "as-is" else np.dtype("float32" if precision == "bfloat16" else precision)
        arrays = {each.name: numpy_helper.to_array(each) for each in self.model.graph.initializer}
        self.arrays = {name: self.cast(array) for name, array in arrays.items()}
        given = [each.name for each in self.model.graph.input]
        self.input_names = [name for name in given if name not in self.arrays]

    def cast(self, array: np.ndarray) -> np.ndarray:
        """A copy, floats in the precision of the check."""
        return np.array(array, self.dtype if self.dtype and array.dtype.kind == "f" else array.dtype)

    def leaves(self) -> dict[str, Leaf]:
        """Initialisers of floats with at least one axis; running statistics by their names."""
        found = {}
        for order, (name, array) in enumerate(self.arrays.items()):
            if array.dtype.kind == "f" and array.ndim:
                statistic = name.endswith(("running_mean", "running_var"))
                axes = {1: "c", 4: "oihw"}.get(array.ndim)
                found[name] = Leaf(array, axes, order, trained=not statistic)
        return found

    def assign(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Replace initialisers."""
        self.arrays |= {name: np.array(array, self.arrays[name].dtype) for name, array in arrays.items()}

    def run(self, inputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name."""
        from compare.ports.recording import NoStore

        return self.evaluate(inputs, Recording(NoStore()))

    def record(self, inputs: Sequence[np.ndarray], store: Store, cotangents: Cotangents | None = None) -> Recording:
        """Compute every node and keep what it makes; a node is a line of the listing."""
        recording = Recording(store)
        self.evaluate(inputs, recording)
        return recording

    def train_steps(
        self, inputs: Sequence[np.ndarray], cotangents: Mapping[str, np.ndarray], steps: int, optimizer: Any
    ) -> list[dict[str, np.ndarray]]:
        """Refused: an ONNX file has no gradients."""
        raise PortError("an ONNX file has no gradients, and takes no steps: leave out steps and optimizer")

    def evaluate(self, inputs: Sequence[np.ndarray], recording: Recording) -> dict[str, np.ndarray]:
        """Run the nodes in order, recording each."""
        from onnx.reference import ReferenceEvaluator

        if len(inputs) != len(self.input_names):
            raise PortError(f"{self.path.name} takes {len(self.input_names)} inputs ({', '.join(self.input_names)})")
        values: dict[str, Any] = {"": None, **self.arrays}
        ids = {name: recording.add("parameter", array, path=name) for name, array in self.arrays.items()}
        recording.parameters = {name: ids[name] for name in self.leaves()}
        for name, x in zip(self.input_names, map(self.cast, map(np.asarray, inputs)), strict=True):
            values[name], ids[name] = x, recording.add("input", x, path=name)
            recording.inputs.append(ids[name])
        evaluator = ReferenceEvaluator(self.model)
        for place, (node, implementation) in enumerate(zip(self.model.graph.node, evaluator.rt_nodes_, strict=True), 1):
            made = implementation.run(*(values[name] for name in node.input))
            frame = Frame(f"{self.path}", place, node.name or node.op_type)
            for name, array in zip(node.output, made, strict=False):
                array = self.cast(np.asarray(array))
                sources = [ids[source] for source in node.input if source in ids]
                values[name] = array
                more = {
                    "frames": (frame,),
                    "path": node.name,
                    "dtype": "float32",
                }  # the constants of ONNX's functions are
                ids[name] = recording.add(node.op_type, array, inputs=sources, **more)
        outputs = [each.name for each in self.model.graph.output]
        recording.outputs = {name: ids[name] for name in outputs}
        return {name: values[name] for name in outputs}
