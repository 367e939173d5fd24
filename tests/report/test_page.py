"""report.html in a real browser: every figure is drawn, the buttons work, it reads on any screen and on paper."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fake_results import fail_parity, fake_results, stop_run

from compare.report import __main__ as report
from compare.report.html.content import page
from compare.report.html.plots import learning, log_ticks
from compare.report.html.roof import roofline
from compare.report.markdown import TITLES
from compare.report.summary import headline

pytestmark = pytest.mark.long

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt install chromium)")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page([("run", fake_results(seeds=(0, 1)))]), encoding="utf-8")
    return path


def opened(browser: Any, path: Path, **options: Any) -> Any:
    """The page, all drawn; whatever it complained about or asked for is in ``problems``."""
    tab = browser.new_page(**options)
    tab.problems = []
    tab.on("console", lambda message: tab.problems.append(message.text))
    tab.on("pageerror", lambda error: tab.problems.append(str(error)))
    tab.on("request", lambda request: tab.problems.append(request.url) if request.url.startswith("http") else None)
    tab.goto(path.as_uri())
    tab.wait_for_selector("html[data-ready]", state="attached")
    return tab


def drawn(tab: Any) -> list[dict[str, Any]]:
    """Each figure as it stands: how many traces were asked for, how many marks there are."""
    return tab.evaluate(
        """() => [...document.querySelectorAll(".plot")].map((place) => ({
            id: place.id, asked: place.data.length, told: Number(place.dataset.drawn), width: place.clientWidth,
            marks: place.querySelectorAll(".scatterlayer .trace, .barlayer .trace").length,
            svg: place.querySelector("svg.main-svg").getBoundingClientRect().width }))"""
    )


# --- in the browser ---------------------------------------------------------------------------------------------------


@needs_chromium
def test_every_figure_is_drawn_and_buttons_work(browser, written):
    tab = opened(browser, written)
    figures = drawn(tab)
    assert len(figures) == 2 * (4 + 1 + 1 + 1) + 1  # curves, speed, time, memory of two presets; the roofline of both
    assert all(figure["marks"] == figure["asked"] == figure["told"] > 0 for figure in figures), figures

    def traces(number: int, what: str) -> list[Any]:
        return tab.evaluate(
            f"[...document.querySelectorAll('#training-curves .plot')][{number}].data.map((t) => {what})"
        )

    def xtitle(selector: str) -> str:
        return tab.text_content(f"{selector} .plot .xtitle")

    assert traces(0, "t.visible ?? true") == [True] * 9  # three seeds, or their mean, of three tracks
    tab.get_by_role("checkbox", name="JAX").uncheck()
    assert traces(0, "t.visible") == [True] * 3 + [False] * 3 + [True] * 3
    assert traces(2, "t.name").count("PyTorch vs NumPy") == traces(2, "t.visible").count(True) == 3
    steps = traces(0, "t.x.at(-1)")
    assert xtitle("#training-curves") == "step"
    tab.get_by_role("radio", name="seconds of training").focus()
    tab.keyboard.press("Space")
    tab.wait_for_function(
        "document.querySelector('#training-curves .plot .xtitle').textContent === 'seconds of training'"
    )
    seconds = traces(0, "t.x.at(-1)")
    tab.get_by_role("radio", name="seconds since process start").check()
    assert all(after > before for before, after in zip(seconds, traces(0, "t.x.at(-1)"), strict=True))
    tab.get_by_role("radio", name="steps, epochs").check()
    assert traces(0, "t.x.at(-1)") == steps
    assert xtitle("#time-per-phase").startswith("seconds to 9")
    tab.get_by_role("radio", name="the end of the run").check()
    tab.wait_for_function("document.querySelector('#time-per-phase .xtitle').textContent.endsWith('whole run')")
    tab.locator("summary").first.click()
    assert tab.locator("details[open] table").first.is_visible()
    assert not tab.problems


@needs_chromium
def test_page_fits_a_phone_screen(browser, written):
    tab = opened(browser, written, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    assert tab.evaluate("document.documentElement.scrollWidth") == 360
    assert all(figure["svg"] <= 330 for figure in drawn(tab))
    assert tab.evaluate("document.querySelector('.plot')._fullLayout.dragmode") is False  # a finger scrolls
    assert not tab.problems


@needs_chromium
def test_dark_and_light_themes_are_readable(browser, written):
    contrast = """(dark) => {
        const light = (color) => { const [r, g, b] = color.match(/[\\d.]+/g).map(Number)
            .map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        const paper = light(getComputedStyle(document.body).backgroundColor);
        const of = (selector, property) => {
            const ink = light(getComputedStyle(document.querySelector(selector))[property]);
            return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05); };
        return [of("body", "color"), of(".facts", "color"), of("nav a", "color"), of(".plot .xtick text", "fill"),
                of(".plot .xtitle", "fill"), of(".heat .quiet", "color")]; }"""
    tab = opened(browser, written)
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        assert min(tab.evaluate(contrast)) > 4.5, scheme  # WCAG 2.2, AA
    lines = tab.evaluate("[...document.querySelectorAll('.controls line')].map((line) => line.getAttribute('stroke'))")
    assert lines == ["#0072B2", "#E58A00", "#D01C6B"]  # those of curves.png


@needs_chromium
def test_page_fits_printed_paper(browser, written):
    tab = opened(browser, written)
    assert tab.pdf(format="A4").startswith(b"%PDF")
    widths = "[...document.querySelectorAll('.plot')].map((place) => place._fullLayout.width)"
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    tab.wait_for_function(f"{widths}.every((width) => width <= 330)")
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    tab.wait_for_function(f"{widths}.every((width) => width > 330)")


def test_curves_have_a_legend_of_their_own_and_the_schedule_is_one_line():
    results = fake_results()
    loss, accuracy, gaps, rates = learning(results)["mlp-mnist"]
    for plot, names in ((loss, 3), (accuracy, 3), (gaps, 3)):
        assert {trace["line"]["color"] for trace in plot.traces} == set(plot.key.values())
        assert len(plot.key) == names
    assert next(iter(gaps.key)).startswith("JAX vs NumPy ")
    assert [(trace["name"], trace["mode"]) for trace in rates.traces] == [("schedule", "lines")]
    results["runs"][1]["history"][3]["lr"] *= 1.05
    *_, rates = learning(results)["mlp-mnist"]
    assert [trace["name"] for trace in rates.traces] == ["schedule", "JAX"]


def test_a_short_log_scale_writes_its_ticks_out():
    assert log_ticks(0.2, 2.4)["ticktext"] == ["0.1", "0.2", "0.5", "1", "2", "5", "10", "20", "50"]
    assert log_ticks(1e-7, 1e-2) == {"dtick": 1}


def test_roofline_is_the_minimum_of_both_limits():
    results = fake_results(presets=("mlp-mnist", "cnn-mnist"))
    for run in results["runs"]:
        intensity = {"mlp-mnist": 3, "cnn-mnist": 30}[run["preset"]]  # FLOPs per byte
        run["step_bytes"] = run["batch_size"] * 2.2e6 / intensity
    (plot,) = roofline(results)[""]
    assert [(row[0], row[2], row[4]) for row in plot.rows[::3]] == [
        ("mlp-mnist", "3.0", "60.0"),  # 20 GB/s of memory
        ("cnn-mnist", "30.0", "150.0"),  # the matrix product
    ]
    for run in results["runs"]:
        run["hardware"] = "cuda" if run["track"] == "jax" else "cpu"  # which has another roof
    (plot,) = roofline(results)[""]
    assert {row[1] for row in plot.rows} == {"NumPy", "PyTorch"}
    results["environment"]["memory_gbs"] = None
    assert roofline(results) == {}


@needs_chromium
def test_page_is_accessible_to_screen_readers(browser, written):
    tab = opened(browser, written)
    levels = tab.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map((heading) => Number(heading.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert tab.evaluate("document.documentElement.lang") == "en"
    for landmark in ("main", "nav[aria-label]", "footer", "header"):
        assert tab.locator(landmark).count() == 1
    missing = """[...document.querySelectorAll(
        "img:not([alt]), img[alt=''], figure:not(:has(figcaption)), section:not([aria-labelledby]), th:empty," +
        ".plot:not([role=img][aria-label]), figure.plotted:not(:has(details td)), .scroll:not([tabindex][aria-label])"
    )].map((element) => element.outerHTML.slice(0, 120))"""
    assert tab.evaluate(missing) == []
    repeated = "[...document.querySelectorAll('[id]')].map((e) => e.id).filter((id, k, ids) => ids.indexOf(id) !== k)"
    assert tab.evaluate(repeated) == []
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


@needs_chromium
def test_page_is_drawn_for_every_ending(browser, tmp_path):
    half = fake_results()
    for run in half["runs"][1:]:
        stop_run(run, "not started", step=0)
    half |= {"status": "interrupted", "parity": [], "drift": []}
    odd = fake_results(presets=("mlp-mnist",), steps=2)
    odd["runs"][0]["step_loss"] = [None, 1.0]
    odd["runs"].append(odd["runs"][2] | {"track": "torch-compiled"})
    path = tmp_path / "page.html"
    path.write_text(page([("half", half), ("odd", odd), ("none", fake_results(presets=()))]), encoding="utf-8")
    tab = opened(browser, path)
    assert all(figure["told"] == figure["asked"] for figure in drawn(tab))
    assert not tab.problems
    assert tab.locator("h3.name", has_text="odd").count() > 5


# --- without one ------------------------------------------------------------------------------------------------------


def test_page_is_small():
    results = fake_results(seeds=(0, 1), steps=4290)
    assert len(results["runs"]) == 12
    html = page([("run", results)])
    assert len(html.encode()) < 6e6  # observed: 1.8e6
    assert not re.search(r"(src|href)=\"?(https?:)?//", html.partition("plotly.js (basic")[0])


@pytest.mark.perf
def test_page_is_built_within_seconds():
    results = fake_results(seeds=(0, 1), steps=4290)
    start = time.process_time()
    page([("run", results)])
    assert time.process_time() - start < 5  # observed: 0.4


def test_page_agrees_with_report_md():
    results = fake_results(seeds=(0, 1))
    html = page([("run", results)])
    assert headline(results) in html
    assert html.count("<h2 id=") == len(TITLES) - 1  # no unfinished runs; a preset's card has a heading, too
    assert "python compare/run_all.py mlp-mnist cnn-mnist" in html
    assert "4.0e-06" in html  # of a leaf that is not the worst
    for words in ("Checkpoints are written while training continues", "up to its first checkpoint"):
        assert words in html


def test_markup_in_results_stays_text():
    results = fake_results()
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    results["command"] = results["environment"]["cpu"] = evil
    stop_run(results["runs"][0], "failed", step=5, message=evil)
    results = json.loads(json.dumps(results).replace("cnn-mnist", "cnn-<b>mnist</b>"))
    html = page([(evil, results), ("other", results)])
    assert evil not in html
    assert "<b>mnist" not in html
    assert "&lt;b&gt;mnist" in html


def test_a_failed_parity_check_is_shown():
    results = fake_results()
    fail_parity(results, "cnn-mnist", "torch")
    for pair in results["parity"]:
        if "torch" in (pair["a"], pair["b"]) and pair["preset"] == "cnn-mnist":
            pair["leaves"]["gradients"]["output/kernel"] = 3e-2
            pair["leaves"]["gradients"]["convs/0/kernel"] = float("inf")
    html = page([("run", results)])
    assert html.count('<td class="bad">3.0e-02</td>') == 2
    assert html.count('<td class="bad">not finite</td>') == 2
    assert "failed the parity check: 2 of 6 pairs disagree" in html


def test_without_error_analysis_and_leaves_these_sections_are_left_out():
    results = fake_results()
    for run in results["runs"]:
        run["error_analysis"] = None
    for pair in results["parity"]:
        pair["leaves"] = {}
    html = page([("run", results)])
    assert TITLES["filters"] not in html
    assert "Leaf by leaf" not in html


def test_several_comparisons_are_shown_side_by_side(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("compare.report.figure.figure", lambda results: b"")  # takes seconds
    for name, factor in (("old", 1.0), ("new", 2.0)):
        results = fake_results(presets=("mlp-mnist",), seeds=(0, 1, 2))
        for run in results["runs"]:
            run["images_per_second"] = factor * (run["images_per_second"] or 0.0)
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(results))
    assert report.main([str(tmp_path / "old"), str(tmp_path / "new")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "side-by-side.html")
    html = (tmp_path / "side-by-side.html").read_text("utf-8")
    assert "; 2.00× (95 % CI 1.9" in html
    assert html.count('<h3 class="name">new</h3>') == html.count('<h3 class="name">old</h3>') > 8
    assert (tmp_path / "new" / "report.html").is_file()
