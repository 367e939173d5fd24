"""What is logged to MLflow of a comparison and its runs: tags, params, summary metrics, description, dataset."""

from __future__ import annotations

import getpass
import json
import shlex
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from compare.results.parity import NOT_CHECKED, parity_problem, speed_withheld
from compare.results.runs import disturbed as disturbance_of
from compare.results.runs import final_metrics, groups, numbers, tested
from compare.results.schema import DataFacts, Results, RunResult

NOTE = "mlflow.note.content"  # a run's description, in Markdown
NOTE_LENGTH = 7900  # MLflow's limit of a tag is 8,000
SUMMARIES = ("test_accuracy", "test_loss", "val_accuracy")
DIGEST_LENGTH = 36  # MLflow's limit


def source_tags(command: str, git_commit: str | None) -> dict[str, str | None]:
    """Who started it, and from which source: the columns User, Source and Version of MLflow.

    MLflow shows the last part of the source's path, which is the program: ``compare.run_all``.
    """
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # an id without a name
        user = None
    return {
        "mlflow.user": user,
        "mlflow.source.name": next(word for word in shlex.split(command) if word not in ("python", "-m")),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": git_commit,
    }


def comparison_tags(results: Results) -> dict[str, str]:
    """Tags of the parent run, by which a list of comparisons is filtered."""
    runs, rows = results["runs"], results["parity"]
    tags = {name: _listed(run[name] for run in runs) for name in ("preset", "track", "seed")}
    parity = "not checked" if not rows else "passed" if all(row["passed"] for row in rows) else "failed"
    return tags | {"parity": parity, "disturbed": _word(any(run["disturbed"] for run in runs))}


def run_tags(results: Results, run: RunResult) -> dict[str, str]:
    """Tags of a child run; its description says why it was disturbed, or ended early."""
    problem = parity_problem(results["parity"], run)
    parity = "passed" if problem is None else "not checked" if problem == NOT_CHECKED else "failed"
    disturbed = f"Disturbed: {run['disturbed']}" if run["disturbed"] else None
    text = "\n\n".join(filter(None, [run["message"], problem if parity == "failed" else None, disturbed]))
    return {"parity": parity, "disturbed": _word(bool(disturbed)), **({NOTE: text} if text else {})}


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(map(str, values)))


def _word(value: bool) -> str:
    return str(value).lower()


def params(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Settings under dotted names, as JSON, so that MLflow can search and a program can read them back.

    ``model_args.hidden`` is ``[512, 512]``; texts stand without quotes, and what is not set is left out.
    """
    found: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= params(value, f"{prefix}{name}.")
        elif value is not None:
            found[f"{prefix}{name}"] = value if isinstance(value, str) else json.dumps(value)
    return found


def summary_metrics(results: Results) -> dict[str, float]:
    """Mean and sample standard deviation over the seeds, by preset and track: ``cnn-mnist/jax/test_accuracy_mean``.

    Speeds only where the report shows them: not without parity, and not of disturbed runs.
    """
    found = {}
    for preset, tracks in groups(results).items():
        for track, runs in tracks.items():
            shown = [*SUMMARIES]
            if not speed_withheld(results, runs) and not disturbance_of(runs):
                shown.append("images_per_second")
            for name in shown:
                values = numbers(tested(runs), name)
                if values:
                    found[f"{preset}/{track}/{name}_mean"] = statistics.fmean(values)
                if len(values) > 1:
                    found[f"{preset}/{track}/{name}_sd"] = statistics.stdev(values)
    return found


def note(report: str) -> dict[str, str]:
    """A report in Markdown as a run's description, without its pictures, cut between two sections if it is too long."""
    text = "\n".join(line for line in report.splitlines() if not line.startswith("!["))
    if len(text) > NOTE_LENGTH:
        end = text.rfind("\n## ", 0, NOTE_LENGTH)
        text = f"{text[: end if end > 0 else NOTE_LENGTH]}\n\nThe rest is in report.md, among the artifacts."
    return {NOTE: text}


def closing_metrics(run: RunResult) -> dict[str, float | None]:
    """The metrics of a run that has ended, without those that its last evaluation has logged at the same step."""
    last: Mapping[str, Any] = run["history"][-1] if run["history"] else {}
    same_step = last.get("step") == run["steps"]
    return {
        name: value for name, value in final_metrics(run).items() if not (same_step and last.get(name, ...) == value)
    }


def dataset(facts: DataFacts) -> Any:
    """MLflow's entity of a dataset; its digest is the start of ours, its profile says how many images there are."""
    from mlflow.entities import Dataset

    return Dataset(
        name=facts["name"],
        digest=facts["digest"][:DIGEST_LENGTH],
        source_type="nn-three-ways",
        source=json.dumps({"dataset": facts["name"], "sha256": facts["digest"]}),
        profile=json.dumps({f"{part}_images": facts[part] for part in ("train", "val", "test")}),
    )
