"""results.json: its documentation is complete, older files are read, and other commands' files are recognised."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
from support.fake_results import fake_results
from support.paths import ROOT

from compare.errors import UserError
from compare.report import __main__ as report
from compare.results import typed_json
from compare.results.reader import read
from compare.results.schema import Results

SCHEMA_1 = Path(__file__).with_name("schema1.tar.xz")  # written by the version before schema 2: two tracks, four steps


@pytest.fixture
def schema_1(tmp_path: Path) -> Path:
    with tarfile.open(SCHEMA_1) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "schema1"


def documented() -> dict[str, str]:
    """{path: type} of every row of the tables in docs/results-json.md."""
    found: dict[str, str] = {}
    path = ""
    for line in (ROOT / "docs" / "results-json.md").read_text("utf-8").splitlines():
        if heading := re.fullmatch(r"## (?:Top level|`(.+)`)", line):
            path = heading[1] or ""
        elif row := re.fullmatch(r"\| `(.+?)` \| (.+?) \|.*?\| (.+) \|", line):
            key = f"{path}.{row[1]}".lstrip(".")
            assert key not in found, f"{key} is documented twice"
            found[key] = row[2]
    return found


def test_every_key_is_documented_with_its_type_and_nothing_else():
    assert documented() == typed_json.keys(Results)


def test_the_check_of_types_finds_missing_unknown_and_wrong_values():
    results: Any = fake_results(presets=("mlp-mnist",))
    assert typed_json.problems(results, Results) == []
    del results["runs"][0]["seed"]
    results["runs"][1]["seconds"]["lunch"] = 1.0
    results["runs"][2]["test_accuracy"] = "98 %"
    results["settings"]["keep"] = True
    assert sorted(typed_json.problems(results, Results)) == [
        ".runs[0].seed: missing",
        ".runs[1].seconds.lunch: unknown",
        ".runs[2].test_accuracy: '98 %' is no number",
        ".settings.keep: True is no integer",
    ]


def test_schema_1_is_converted(schema_1: Path):
    old, new = json.loads((schema_1 / "results.json").read_text()), read(schema_1)
    assert old["schema"] == 1
    assert typed_json.problems(new, Results) == []
    assert new["drift"] == old["parity"]
    assert [row["max_rel"] for row in new["parity"][0]["checks"]] == [
        row["max_rel"] for row in old["proof"][0]["checks"]
    ]
    assert new["settings"]["parity"] is old["settings"]["proof"]
    assert new["environment"]["load"] == {
        "before": old["environment"]["load"][0],
        "after": old["environment"]["load"][1],
    }
    for was, run in zip(old["runs"], new["runs"], strict=True):
        assert run["matmul_precision"] == was["products"]
        assert run["error_analysis"] is not None
        assert run["error_analysis"]["misclassified"] == was["insight"]["mistakes"]
        assert run["step_loss"] == was["step_loss"]


def test_schema_1_without_later_keys_is_converted(tmp_path: Path, schema_1: Path):
    old = json.loads((schema_1 / "results.json").read_text())
    del old["proof"][0]["leaves"], old["proof"][0]["draws"], old["proof"][0]["sensitivity"]
    for run in old["runs"]:
        for name in ("insight", "products", "device", "input_share"):
            del run[name]
    (tmp_path / "results.json").write_text(json.dumps(old))
    assert typed_json.problems(read(tmp_path), Results) == []


def test_report_of_schema_1_is_made_again(schema_1: Path, capsys: pytest.CaptureFixture[str]):
    assert report.main([str(schema_1)]) == 0
    assert "11.34 %" in capsys.readouterr().out
    assert "**Parity:** passed." in (schema_1 / "report.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("benchmark.json", {"kind": "benchmark"}, "benchmark"),
        ("search.json", {"kind": "search"}, "search"),
        ("transfer.json", {"kind": "transfer"}, "transfer"),
        ("results.json", {"schema": 1, "task": "digits", "rows": []}, "transfer"),  # before it had a name of its own
        ("loaders.json", {"kind": "loaders"}, "loaders"),
    ],
)
def test_folders_of_other_commands_are_recognised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: dict[str, Any], kind: str
):
    (tmp_path / name).write_text(json.dumps(content))
    reported: list[Path] = []

    def again(path: Path) -> dict[str, Any]:
        reported.append(path)
        return {}

    monkeypatch.setattr(f"compare.{kind}.report.again", again)
    assert report.main([str(tmp_path)]) == 0
    assert reported == [tmp_path]
    with pytest.raises(UserError, match=f"holds a {kind} run, not a comparison: see python -m compare.report"):
        read(tmp_path)
