"""An ONNX file against PyTorch: outputs agree or the node is named; without gradients the verdict is never "same"."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compare.ports import check

onnx = pytest.importorskip("onnx", reason="ONNX files need onnx: pip install '.[export]'")


class Reference(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.output = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.output(self.hidden(x).tanh())


def written(file: Path, activation: str) -> Path:
    """The reference as three nodes, with weights of its own."""
    helper, numbers = onnx.helper, np.random.default_rng(1)
    shapes = {"hidden.weight": (8, 4), "hidden.bias": (8,), "output.weight": (3, 8), "output.bias": (3,)}
    arrays = [
        onnx.numpy_helper.from_array(numbers.standard_normal(shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Gemm", ["x", "hidden.weight", "hidden.bias"], ["h"], name="first", transB=1),
        helper.make_node(activation, ["h"], ["a"], name="activation"),
        helper.make_node("Gemm", ["a", "output.weight", "output.bias"], ["y"], name="second", transB=1),
    ]
    given = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None, 4])]
    made = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None, 3])]
    onnx.save(helper.make_model(helper.make_graph(nodes, "port", given, made, arrays)), str(file))
    return file


def test_outputs_of_an_onnx_file_agree(rng, tmp_path):
    report = check(Reference(), written(tmp_path / "port.onnx", "Tanh"), rng.standard_normal((6, 4)))
    assert report.verdict == "undecided", report
    assert report.reason == "the outputs agree, but gradients are not compared: b (ONNX) has none"
    assert report.first is None
    assert [row.what for row in report.rows] == ["output"]
    assert report.rows[0].rel < 1e-12


def test_the_node_of_an_onnx_file_is_named(rng, tmp_path):
    torch.manual_seed(0)
    report = check(Reference(), written(tmp_path / "port.onnx", "Sigmoid"), rng.standard_normal((6, 4)))
    assert report.verdict == "different", report
    assert (report.first.b, report.first.op_b) == ("port.onnx:2", "Sigmoid")
    assert report.first.a.startswith("test_onnx.py:")
