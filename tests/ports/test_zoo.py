"""The bugs of the zoo that are in one track only: the parity check's report names their line, or the line beside it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass

import pytest
from support.paths import ROOT

from compare.bugs.bug import RIGHT
from compare.bugs.copies import copy_of
from compare.bugs.planting import BUGS, swap

SCRIPT = """
from compare.config import Config
from compare.parity import lines
from compare.parity.check import EXAMPLES

args = EXAMPLES.get({model!r}, {{"input_shape": (16, 16, 1)}})
args |= {{"channels": (4, 6), "hidden": 12}} if {model!r} == "cnn" else {{}}
config = Config(preset="zoo", model={model!r}, dataset="random images", model_args=args)
report = lines.compared(config, {a!r}, {b!r}, {change})
print(report.verdict, report.first.direction, report.first.a, report.first.b)
"""


@dataclass(frozen=True)
class Case:
    """A network and two tracks, the first with the bug, in which it shows; ``line`` is to be named."""

    model: str
    a: str
    b: str
    direction: str
    line: str
    change: str = "lambda x: x"  # of the images


# Values say where two programs part, so that a mistake in a name or a constant shows where that is used, and one in a
# backward pass where the first value is made that the other track does not have: on the bug's line or the next to it.
CASES = {
    "conv-stride": Case("resnet", "numpy", "torch", "backward", "dpixel = np.moveaxis("),
    "norm-variance": Case("resnet", "numpy", "torch", "backward", "dx -= tile(all_mean(dbias / size))"),
    "attention-scale": Case("vit", "numpy", "jax", "backward", "dq = ds @ k"),
    "pool-ties": Case("cnn", "numpy", "torch", "backward", "largest = padded[at] == y", "lines.with_ties"),
    "softmax-overflow": Case(
        "mlp", "numpy", "torch", "forward", "return shifted - np.log(np.exp(shifted)", "lambda x: 1e4 * x"
    ),
    "loss-mean-axis": Case(
        "mlp", "numpy", "jax", "forward", "return -(q * log_p * valid).mean(), (log_p, q, valid, n)"
    ),
    "double-softmax": Case("mlp", "torch", "jax", "forward", "losses = F.cross_entropy(logits.softmax(dim=1)"),
    "lstm-gates": Case("lstm", "jax", "torch", "forward", "c = sigmoid(f) * state[1] + sigmoid(i) * jnp.tanh(g)"),
    "momentum-flipped": Case("resnet", "numpy", "torch", "statistics", "return {name: MOMENTUM * stats[name]"),
}
# In the update or around it, and not in what a network and its loss compute; and float64, whose values are right.
ELSEWHERE = {
    "zero-grad", "adam-bias", "decay-biases", "schedule-step", "stats-dropped", "silent-float64", "train-mode",
}  # fmt: skip


def test_every_bug_of_one_track_is_here_or_has_its_reason():
    of_a_track = {name for name, bug in BUGS.items() if bug.file.startswith(("numpy_nn", "jax_nn", "torch_nn"))}
    assert CASES.keys() | ELSEWHERE == of_a_track - {"first-values"}  # which is in all tracks alike


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_a_bug_of_the_zoo_is_found_at_its_line(name):
    bug, case = BUGS[name], CASES[name]
    with copy_of(ROOT) as copy:
        swap(bug, copy, RIGHT)
        source = (copy / bug.file).read_text("utf-8").splitlines()
        script = SCRIPT.format(model=case.model, a=case.a, b=case.b, change=case.change)
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=copy,
            env=os.environ | {"PYTHONPATH": str(copy)},
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-2000:]
    verdict, direction, *places = done.stdout.split()
    assert (verdict, direction) == ("different", case.direction)
    file, line = re.fullmatch(r"(.+):(\d+)", places[(case.a, case.b).index(bug.track)]).groups()
    assert file == bug.file.rpartition("/")[2]
    assert source[int(line) - 1].strip().startswith(case.line)
