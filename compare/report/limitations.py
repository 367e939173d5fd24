"""What is wrong with a comparison: what tilts it, and what did not finish."""

from __future__ import annotations

from compare.results import Results, numbers


def unfairness(results: Results) -> str:
    """What is known to tilt the comparison, a point a line."""
    environment, runs = results["environment"], results["runs"]
    load = ", ".join(
        f"{value:.1f} {when}"
        for value, when in zip(environment.get("load") or [], ("before", "after"), strict=False)
        if value is not None
    )
    seeds = len({run["seed"] for run in runs})
    repeats = (
        "one run: its spread is unknown, so a small difference shows nothing"
        if seeds == 1
        else f"{seeds} runs, the seeds: a difference within their spread shows nothing"
    )
    chunk = max(numbers(runs, "chunk"), default=0)
    lines = [
        f"Each figure rests on {repeats}.",
        "The runs take turns, a fresh process each, in the order in which results.json lists them: a later one meets "
        "a warmer processor and a fuller file cache, and whatever else the machine did meanwhile"
        + (f" (1-minute load: {load})." if load else "."),
        "All cores are open to every track, and used in different ways: PyTorch and XLA have thread pools, "
        "NumPy has a process for each core, with its shard of every batch.",
        "Convolution compares implementations, not languages: windows times kernel in NumPy; in JAX, on a CPU, XLA's "
        "own forward and gradients written by hand, because those that JAX derives are slow there; oneDNN in PyTorch. "
        "On an accelerator JAX takes XLA's for all, and the order may be another.",
        f"JAX runs a chunk of steps ({chunk:.0f} here) in one compiled call, PyTorch and NumPy come back to Python "
        "after each: the usual form of each, and an advantage where steps are short.",
        "A step's time is that of its chunk divided by the steps in it: the spread [p10 p90] hides single slow steps.",
        "Peak memory is that of the process up to its first save (which loads the library that writes checkpoints): "
        "libraries, data and buffers that a framework keeps for later are in it.",
        "A checkpoint is written while training goes on: the timed chunk after a save shares its cores.",
        "Large matrix products are those of NumPy's BLAS, between the runs; another library can be faster, and within "
        "a run the machine may have been slower or faster than around it.",
        "The proof covers the first steps at the seed it was made with, not the whole training: see the drift.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def unfinished(results: Results) -> str:
    """The runs that did not end as planned, and why; nothing if all did."""
    return "\n".join(
        f"- {run['preset']} {run['track']} seed {run['seed']}: {run['status']}"
        + (f" after {len(run['step_loss']):,} steps" if run.get("step_loss") else "")
        + (f": {one_line(run['message'])}" if run.get("message") else "")
        for run in results["runs"]
        if run["status"] != "finished"
    )


def one_line(text: str) -> str:
    """A message of any length and shape, fit for a line of a report."""
    line = " ".join(text.split())
    return line if len(line) <= 400 else f"{line[:400]}..."
