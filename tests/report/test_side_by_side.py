"""The page of the three tracks side by side: every line finds its twins, a difference is marked where it begins."""

from __future__ import annotations

import html
import importlib
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from compare.side_by_side import __main__ as command
from compare.side_by_side.align import align
from compare.side_by_side.gradients import partners
from compare.side_by_side.page import Line, lines_of, page, shown_topic
from compare.side_by_side.statements import Statement, lines
from compare.side_by_side.topics import FILES, MODELS, PACKAGES, TOPICS, views
from compare.side_by_side.trace import TOLERANCE

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

# Statements of the forward passes without a twin in one or both of the other tracks. NumPy keeps what its backward pass
# needs, and hands on running statistics, both of which the frameworks do behind the scenes.
ALONE = {
    "mlp": ["caches = []", "caches.append((linear_cache, act_cache))"],
    "cnn": [
        'new: Tree = {"norms": {}} if self.batch_norm else {}',
        "caches = []",
        "norm_cache = pool_cache = None",
        "caches.append((conv_cache, pool_cache, norm_cache, relu_cache))",
    ],
    "resnet": [
        "y = np.pad(x[:, ::stride, ::stride], [(0, 0), (0, 0), (0, 0), (extra, extra)])",  # a helper of its own
        "return y, (x.shape, stride, extra)",
        "new = {}",
        "shortcut, shortcut_cache = x, None",
        "shortcut_cache = project_cache, norm_cache",
        "branch_cache = conv1_cache, norm1_cache, relu1_cache, conv2_cache, norm2_cache",
        'new: Tree = {"blocks": {}}',
        'stride, padding = (2, 3) if self.stem == "large" else (1, 1)',  # in the other tracks, when the layer is built
        "pool_cache = None",
        "caches = []",
        "caches.append(cache)",
        "return x",  # of the shortcut, a method in JAX and PyTorch
    ],
    "lstm": [],
    "vit": ["grid_shape = x.shape", "caches = []", "caches.append(block_cache)", "tokens_shape = x.shape"],
    "gpt": ["caches = []", "caches.append(block_cache)"],
}


def counted(statements: list[Statement]) -> list[Statement]:
    """Without headers of functions and docstrings."""
    return [each for each in statements if each.kind not in ("FunctionDef", "Doc")]


def forward_lines(model: str) -> list[Line]:
    """The lines of a model's forward view, measured."""
    (forward,) = (view for view in shown_topic(model) if view.name == "forward")
    return list(lines_of([forward]))


def text(line: Line) -> str:
    """The code of a line without colours."""
    return " ".join(html.unescape(re.sub("<[^>]*>", "", each)) for _, _, each in line.code)


def bent(x: Any) -> Any:
    """An error that a norm behind it does not take away."""
    return x + 1e-3 * x * x


@pytest.mark.parametrize("model", MODELS)
def test_the_statements_of_a_forward_pass_find_their_twins(model):
    view = views(model)["forward"]
    aligned = align(view)
    alone = []
    for track in PACKAGES:
        statements = counted(view.of(track))
        for other in PACKAGES.keys() - {track}:
            missing = [each for each in statements if not aligned.found(each, other)]
            alone += [each.code for each in missing if each.code not in alone]
            if track != "numpy":
                assert len(missing) <= 0.05 * len(statements), [each.code for each in missing]
    assert sorted(alone) == sorted({*ALONE[model]})


def test_twins_are_the_lines_that_a_reader_would_pair():
    view = views("cnn")["forward"]
    aligned = align(view)
    expected = {
        "x, pool_cache = max_pool_forward(x, window=pool)": {"x = max_pool(x, window=pool)"},
        'h, hidden_cache = linear_forward(h, **params["hidden"])': {"h = self.hidden(h)"},
        'x, new["norms"][k], norm_cache = batch_norm_forward(x, **norm, stats=old, mode=mode)': {
            "x = self.norms[k](x)"
        },
        'norm, old = params["norms"][k], stats["norms"][k]': {"x = self.norms[k](x)"},  # which it prepares
        'logits, output_cache = linear_forward(h, **params["output"])': {"return self.output(h)"},
    }
    for statement in view.of("numpy"):
        if statement.code in expected:
            assert {twin.code for twin in aligned.twins[statement.id]} == expected.pop(statement.code)
    assert not expected


@pytest.mark.parametrize("model", MODELS)
def test_each_call_of_a_backward_pass_finds_its_forward_line(model):
    found = views(model)
    other = partners(found["forward"], found["backward"])
    calls = 0
    for name, block in found["backward"].blocks.items():
        for statement in block["numpy"] if ":" not in name else []:
            for operation in re.findall(r"\b(?!def )(\w+)_backward\(", statement.code):
                if statement.kind == "FunctionDef":
                    continue
                (partner,) = other[statement.id]
                assert f"{operation}_forward(" in partner.code
                caches = set(re.findall(r"\w+_cache\b", statement.code))
                assert caches <= set(re.findall(r"\w+_cache\b", partner.code))
                calls += 1
    assert calls >= 2


@pytest.mark.parametrize(
    ("topic", "forward", "backward"),
    [
        ("norm", "def batch_norm_forward", ["def batch_norm_backward"]),  # an elementary operation, as a whole
        ("norm", "normed *= rstd", []),
        ("conv", "def im2col_forward", ["def im2col_backward"]),
        ("attention", "v, value_cache =", ["dx, dkernel, dbias = linear_backward(dv, value_cache)", "dvalue ="]),
    ],
)
def test_operations_have_their_backward_functions(topic, forward, backward):
    found = views(topic)
    other = partners(found["forward"], found["backward"])
    (line,) = (each for each in found["forward"].of("numpy") if each.code.startswith(forward))
    pairs = [each.code for each in other.get(line.id, [])]
    assert len(pairs) == len(backward)
    assert all(map(str.startswith, pairs, backward)), pairs


@pytest.mark.parametrize("model", MODELS)
def test_each_line_is_measured_and_the_tracks_agree(model):
    measured = forward_lines(model)
    assert not [line.place for line in measured if line.differs]
    assert all(line.gap <= TOLERANCE for line in measured if line.gap is not None)
    frameworks = [line for line in measured if line.track != "numpy" and line.arrays]
    assert not [line.place for line in frameworks if line.gap is None and text(line).strip() != "return x"]
    assert len(frameworks) >= 6
    assert all(re.search("float64|bool", line.arrays) for line in frameworks)


@pytest.mark.parametrize(
    ("model", "module", "operation", "marked"),
    [
        ("mlp", "numpy_nn.models.mlp", "flatten_forward", "flatten"),
        ("cnn", "torch_nn.models.cnn", "max_pool", "max_pool"),  # in a loop whose first line then differs in turn 2
        ("vit", "jax_nn.models.vit", "gelu", "gelu"),
    ],
)
def test_a_planted_difference_is_marked_where_it_begins(monkeypatch, model, module, operation, marked):
    right = getattr(importlib.import_module(module), operation)

    def wrong(*arguments: Any, **options: Any) -> Any:
        answer = right(*arguments, **options)
        return (bent(answer[0]), *answer[1:]) if isinstance(answer, tuple) else bent(answer)

    monkeypatch.setattr(f"{module}.{operation}", wrong)
    found = forward_lines(model)
    first = [line for line in found if line.first]
    assert sorted(line.track for line in first) == ["jax", "numpy", "torch"]
    assert all(f"{marked}" in text(line) for line in first), [text(line) for line in first]
    assert all(line.differs and line.gap is not None and 1e-5 < line.gap < 1e-1 for line in first)
    assert sum(line.differs for line in found) > 3  # what follows from it differs, too


@pytest.mark.parametrize("topic", [*FILES, "mlp"])
def test_what_is_shown_is_the_source(topic):
    shown = shown_topic(topic)
    for line in lines_of(shown):
        path = line.place.partition(":")[0]
        for number, _, colored in line.code:
            assert html.unescape(re.sub("<[^>]*>", "", colored)) == lines(path)[number - 1].lstrip()
    assert {line.track for line in lines_of(shown)} == {*PACKAGES}
    assert any(line.twins for line in lines_of(shown))


def test_the_command_writes_a_page_that_needs_no_other_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command.main(["optim", "train"]) == 0
    *notes, link = capsys.readouterr().out.splitlines()
    assert (notes, link) == (
        ["optim: aligning its sources", "train: aligning its sources"],
        (tmp_path / "build/side-by-side.html").as_uri(),
    )
    written = (tmp_path / "build/side-by-side.html").read_text("utf-8")
    assert not re.search(r"""(src|href)=["']?(?!["']?#)|url\(""", written)
    with pytest.raises(SystemExit, match="2"):
        command.main(["nonsense"])
    assert set(TOPICS) == {*MODELS, *FILES}


# --- in the browser ---------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt install chromium)")
def test_a_line_lights_its_twins_and_a_planted_difference_is_seen(tmp_path, monkeypatch):
    from playwright.sync_api import sync_playwright

    import torch_nn.models.cnn

    right = torch_nn.models.cnn.max_pool
    monkeypatch.setattr("torch_nn.models.cnn.max_pool", lambda x, window: bent(right(x, window)))
    path = Path(tmp_path, "page.html")
    path.write_text(page(["cnn", "norm"]), "utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        problems: list[str] = []
        tab.on("console", lambda message: problems.append(message.text))
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.goto(path.as_uri())
        tab.wait_for_selector("html[data-ready]", state="attached")

        def texts(selector: str) -> list[str]:
            return [each.strip() for each in tab.locator(f"{selector}:visible .code").all_inner_texts()]

        marked = texts(".line.first")
        assert marked[0].startswith("x, pool_cache = max_pool_forward(")
        assert marked[1:] == ["x = max_pool(x, window=pool)"] * 2
        pair = ["h = self.hidden(h)"] * 2
        forward = 'h, hidden_cache = linear_forward(h, **params["hidden"])'
        tab.locator(".line:visible", has_text="h = self.hidden(h)").first.hover()
        assert texts(".line.lit") == [forward, *pair]
        assert "linear_backward(dh, hidden_cache)" in tab.locator("#detail").inner_text()

        tab.locator(".line:visible", has_text='linear_forward(h, **params["hidden"])').focus()
        tab.keyboard.press("ArrowDown")
        assert texts(".line.lit") == ["h, relu_cache = relu_forward(h)", *["h = relu(h)"] * 2]
        tab.keyboard.press("ArrowRight")
        assert tab.evaluate("document.activeElement.dataset.place").startswith("jax_nn/models/cnn.py")

        tab.get_by_role("radio", name="backward").check()
        tab.locator(".line:visible", has_text="linear_backward(dh, hidden_cache)").focus()
        assert "linear_forward(h, **params" in tab.locator("#detail").inner_text()
        assert texts(".line.partner") == pair  # in JAX and PyTorch, which differentiate by themselves
        tab.goto(f"{path.as_uri()}#norm/forward")
        tab.wait_for_selector("#norm [data-view=forward]")
        assert tab.get_by_role("radio", name="update").is_disabled()
        assert any(each.startswith("def batch_norm_forward(") for each in texts(".line"))

        tab.set_viewport_size({"width": 390, "height": 780})
        tab.goto(f"{path.as_uri()}#cnn/forward")
        tab.wait_for_selector("#cnn [data-view=forward]")
        assert tab.evaluate("document.documentElement.scrollWidth") == 390
        tab.get_by_role("radio", name="PyTorch").check()
        assert "x = conv(x)" in texts(".line")
        assert not any("conv2d_forward" in each for each in texts(".line"))
        browser.close()
    assert not problems
