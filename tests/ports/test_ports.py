"""The public interface of compare.ports: kinds of implementations, verdicts, errors, the command and the page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compare.parity.__main__ import main as parity_main
from compare.ports import PortError, assert_same, check
from compare.ports.__main__ import main

HERE = Path(__file__).resolve()
PARAMS = {
    "hidden": {"weight": np.zeros((4, 8)), "bias": np.zeros(8)},
    "output": {"weight": np.zeros((8, 3)), "bias": np.zeros(3)},
}


class Reference(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.output = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.output(self.hidden(x).tanh())


def forward(params, x):
    h = x @ params["hidden"]["weight"] + params["hidden"]["bias"]
    a = np.tanh(h)
    y = a @ params["output"]["weight"] + params["output"]["bias"]
    return y, (params, x, a)


def backward(dy, cache):
    params, x, a = cache
    doutput = {"weight": a.T @ dy, "bias": dy.sum(0)}
    da = dy @ params["output"]["weight"].T
    dh = da * (1 - a**2)
    return {"hidden": {"weight": x.T @ dh, "bias": dh.sum(0)}, "output": doutput}


def wrong_backward(dy, cache):
    params, x, a = cache
    doutput = {"weight": a.T @ dy, "bias": dy.sum(0)}
    da = dy @ params["output"]["weight"].T
    dh = da * (1 - a)  # wrong
    return {"hidden": {"weight": x.T @ dh, "bias": dh.sum(0)}, "output": doutput}


def wrong_forward(params, x):
    h = x @ params["hidden"]["weight"] + params["hidden"]["bias"]
    a = np.tanh(2 * h)  # twice
    y = a @ params["output"]["weight"] + params["output"]["bias"]
    return y, (params, x, a)


def line_of(text: str) -> str:
    lines = [k for k, line in enumerate(HERE.read_text("utf-8").splitlines(), 1) if line.endswith(text)]
    return f"{HERE.name}:{lines[0]}"


@pytest.fixture
def x(rng):
    return rng.standard_normal((6, 4))


# --- verdicts ---------------------------------------------------------------------------------------------------------


def test_numpy_with_a_backward_is_the_same(x):
    report = assert_same(Reference(), (forward, backward, PARAMS), x)
    assert {row.what for row in report.rows} == {"output", "loss", "gradient"}
    assert report.first is None


def test_numpy_without_a_backward_is_undecided(x):
    report = check(Reference(), (lambda params, x: forward(params, x)[0], PARAMS), x)
    assert report.verdict == "undecided"
    assert "gradients are not compared" in report.reason


@pytest.mark.parametrize("numpy_first", [False, True])
def test_a_wrong_derivative_in_numpy_is_found_on_its_line(x, numpy_first):
    rng = np.random.default_rng(0)
    params = {k: {n: rng.standard_normal(p.shape) for n, p in v.items()} for k, v in PARAMS.items()}
    sides = [Reference(), (forward, wrong_backward, params)]
    a, b = sides[::-1] if numpy_first else sides
    report = check(a, b, x)
    assert report.verdict == "different"
    assert report.first.direction == "backward"
    assert (report.first.a if numpy_first else report.first.b) == line_of("# wrong")


def test_a_wrong_formula_in_numpy_is_found_on_its_line(x):
    report = check(Reference(), (wrong_forward, backward, PARAMS), x)
    assert report.verdict == "different"
    assert report.first.b == line_of("# twice")


def test_float32_is_undecided_unless_the_caller_says_what_is_enough(x):
    assert check(Reference(), (forward, backward, PARAMS), x, precision="float32").verdict == "undecided"
    assert check(Reference(), (forward, backward, PARAMS), x, precision="float32", tolerances=1e-5).verdict == "same"


def test_weights_as_they_are(x):
    a, b = Reference(), Reference()
    assert check(a, b, x, weights="as-is").verdict == "different"
    b.load_state_dict(a.state_dict())
    assert check(a, b, x, weights="as-is").verdict == "same"


class Cast(Reference):
    def forward(self, x):
        h = self.hidden(x).float().tanh()
        return self.output(h.double())


def test_rounding_to_float32_inside_is_undecided(x):
    report = check(Reference(), Cast(), x)
    assert report.verdict == "undecided"
    assert "float32" in report.reason


class Noisy(Reference):
    def forward(self, x):
        return self.output(torch.dropout(self.hidden(x).tanh(), 0.5, True))


def test_two_random_sides_are_undecided(x):
    report = check(Noisy(), Noisy(), x)
    assert report.verdict == "undecided"
    assert "random" in report.reason


class Infinite(Reference):
    def forward(self, x):
        h = self.hidden(x).tanh()
        h = (h - 2).log()  # not finite
        return self.output(h)


def test_the_first_line_that_makes_nan_is_named(x):
    report = check(Infinite(), Infinite(), x)
    assert report.verdict == "undecided"
    assert line_of("# not finite") in report.reason


class Several(nn.Module):
    """Tied weights, an unused parameter, a dictionary of outputs, integers as inputs."""

    def __init__(self):
        super().__init__()
        self.embed, self.unused = nn.Embedding(7, 5), nn.Parameter(torch.ones(3))
        self.output = nn.Linear(5, 7, bias=False)
        self.output.weight = self.embed.weight

    def forward(self, tokens):
        h = self.embed(tokens)
        return {"logits": self.output(h), "hidden": (h, h.mean(1))}


def test_tied_and_unused_parameters_and_several_outputs(rng):
    report = assert_same(Several(), Several(), rng.integers(0, 7, (2, 3)))
    assert [row.a for row in report.rows if row.what == "output"] == ["hidden/0", "hidden/1", "logits"]
    assert any(row.note == "no gradient on either side" for row in report.rows)


def test_half_precision_is_checked_in_float64_and_the_model_stays_as_it_is(x):
    model = Reference().half()
    assert check(model, (forward, backward, PARAMS), x).verdict == "same"
    assert model.hidden.weight.dtype == torch.float16


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": Reference}, "the class Reference, not an instance"),
        ({"inputs": np.full((2, 4), np.nan)}, "input 0 has NaN"),
        ({"inputs": np.array(["x"])}, "input 0 has dtype"),
        ({"inputs": []}, "there are no inputs"),
        ({"inputs": np.zeros((2, 9))}, r"a \(PyTorch\) does not run on inputs of shape \(2, 9\)"),
        ({"precision": "float8"}, "unknown precision 'float8'"),
        ({"weights": "share"}, "weights is 'share'"),
        ({"tolerances": {"loss": 1}}, "unknown tolerance 'loss'"),
        ({"steps": 3}, "steps and optimizer belong together"),
        ({"mapping": {"hidden.weight": "nothing"}}, "'nothing' is not a leaf of a; known: hidden.weight"),
        ({"layouts": ("NCHW", "CHWN")}, "unknown layout 'CHWN'"),
        ({"b": nn.Linear(4, 3)}, "b has, and a does not|a has, and b does not"),
    ],
)
def test_a_wrong_question_is_refused(x, change, message):
    given = {"a": Reference(), "b": Reference(), "inputs": x} | change
    with pytest.raises(PortError, match=message):
        check(**given)


def test_everything_left_over_is_listed_at_once(x):
    class Other(Reference):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(4, 8, bias=False)
            self.extra = nn.Parameter(torch.ones(2))

    with pytest.raises(PortError) as error:
        check(Reference(), Other(), x)
    assert "extra (2,)" in str(error.value)
    assert "hidden.bias (8,)" in str(error.value)


def test_outputs_of_different_shapes_are_different(x):
    class Wide(Reference):
        def forward(self, x):
            return self.output(self.hidden(x).tanh()).repeat(1, 2)

    report = check(Reference(), Wide(), x)
    assert report.verdict == "different"
    assert "shapes" in str(report)


def test_assert_same_fails_with_the_report(x):
    with pytest.raises(AssertionError, match="different: outputs"):
        assert_same(Reference(), (wrong_forward, backward, PARAMS), x)


# --- the command and the page -----------------------------------------------------------------------------------------

FILE = """
import numpy as np
from torch import nn

def same():
    return nn.Linear(3, 2), nn.Linear(3, 2), np.ones((4, 3))

def ports():
    return {"a": nn.Sequential(nn.Linear(3, 2), nn.ReLU()), "b": nn.Sequential(nn.Linear(3, 2), nn.Tanh()),
            "inputs": np.random.default_rng(0).standard_normal((4, 3))}

def three():
    return 1, 2
"""


def test_the_command_prints_writes_and_exits_with_the_verdict(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("file.py").write_text(FILE, "utf-8")
    assert main(["file.py:same"]) == 0
    assert capsys.readouterr().out.startswith("same: outputs, loss and 2 gradients agree")
    assert main(["file.py", "--json", "report.json"]) == 1
    assert json.loads(Path("report.json").read_text("utf-8"))["verdict"] == "different"
    page = Path("file-report.html").read_text("utf-8")
    assert '<h1><span class="different">' in page
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r"https?://", page)


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (FILE, "file.py:absent", "has no function 'absent'; it has: same, ports, three"),
        (FILE, "file.py:three", r"three\(\) of file.py must return"),
        ("import nothing_like_it", "file.py", "ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("", "absent.py", "absent.py: no such file"),
    ],
)
def test_a_file_that_does_not_serve_is_refused(text, name, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("file.py").write_text(text, "utf-8")
    assert main([name]) == 2
    told = capsys.readouterr().err
    assert re.search(message, told)
    assert "importlib" not in told


def test_the_page_lights_the_lines(x, tmp_path):
    report = check(Reference(), (wrong_forward, backward, PARAMS), x)
    page = report.to_html(tmp_path / "report.html").read_text("utf-8")
    lit = re.findall(r'class="lit"[^>]*><i>(\d+)</i>([^<]*)', page)
    assert [text.strip() for _, text in lit][1] == "a = np.tanh(2 * h)  # twice"
    assert len(lit) == 2


def test_one_track_is_nothing_to_compare(capsys):
    assert parity_main(["mlp", "--tracks", "torch"]) == 2
    assert "nothing to compare" in capsys.readouterr().err
