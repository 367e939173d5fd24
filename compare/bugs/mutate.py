"""Plants mutants one at a time in a copy of the project, runs the tests of their module, and counts the survivors."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path

from compare.bugs.copies import copy_of, tested
from compare.bugs.mutants import Mutant, mutants

TRACKS = ("numpy_nn", "jax_nn", "torch_nn")
NN, REPORT, TRAINING = "tests/nn/test_", "tests/report/test_", "tests/training/test_"
PARITY = f"{NN}parity.py::test_"

# name: (files, the tests that should notice, the quickest first)
MODULES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "numpy_nn": (
        ("numpy_nn/*.py", "numpy_nn/models/*.py"),
        (f"{NN}layer_arguments.py", f"{NN}ops.py", f"{NN}model_arguments.py", f"{PARITY}models_agree"),
    ),
    "losses": (
        tuple(f"{track}/losses.py" for track in TRACKS),
        (f"{NN}arguments.py", f"{PARITY}losses_agree", f"{NN}ops.py", f"{NN}techniques.py"),
    ),
    "optim": (
        tuple(f"{track}/optim.py" for track in TRACKS),
        (f"{NN}arguments.py", f"{NN}lr_scale.py", f"{NN}train.py", f"{PARITY}optimizers_agree"),
    ),
    "train": (
        tuple(f"{track}/train.py" for track in TRACKS),
        (f"{NN}shards.py", f"{NN}train.py", f"{NN}lr_scale.py", f"{NN}techniques.py"),
    ),
    "parity": (
        ("compare/parity/check.py", "compare/parity/drift.py"),
        (f"{NN}tolerances.py", f"{REPORT}known_answers.py", f"{PARITY}losses_agree", f"{NN}parity.py"),
    ),
    "statistics": (
        ("compare/statistics.py",),
        (f"{REPORT}statistics.py", f"{REPORT}known_answers.py", f"{REPORT}report.py"),
    ),
    "checkpoint": (
        ("compare/checkpoint/store.py", "compare/checkpoint/reader.py", "compare/checkpoint/digests.py"),
        (f"{TRAINING}checkpoint.py", f"{TRAINING}resume.py"),
    ),
}


def sample(root: Path, modules: Sequence[str], *, limit: int, seed: int) -> list[tuple[str, Mutant]]:
    """``limit`` different mutants with their modules, drawn in turn from each of the modules."""
    rng = random.Random(seed)
    queues = []
    for module in modules:
        files = sorted(path for pattern in MODULES[module][0] for path in root.glob(pattern))
        every = [each for path in files for each in mutants(path.relative_to(root).as_posix(), path.read_bytes())]
        queues.append([(module, each) for each in rng.sample(every, len(every))])
    drawn: dict[Mutant, str] = {}
    for turn in range(max(map(len, queues))):
        for queue in queues:
            if turn < len(queue) and len(drawn) < limit:
                module, mutant = queue[turn]
                drawn.setdefault(mutant, module)
    return [(module, mutant) for mutant, module in drawn.items()]


def mutate(root: Path, modules: Sequence[str], *, limit: int, seed: int) -> int:
    """Print a line for each mutant and the number that were noticed; return 1 if the tests fail without any."""
    noticed = tried = 0
    with copy_of(root) as copy:
        verdict = tested(copy, *dict.fromkeys(test for module in modules for test in MODULES[module][1]))
        if not verdict.passed:
            print(f"the tests fail without a mutant: {verdict.words}")
            return 1
        for module, mutant in sample(copy, modules, limit=limit, seed=seed):
            path, start = copy / mutant.file, time.perf_counter()
            source = path.read_bytes()
            path.write_bytes(mutant.apply(source))
            survived = tested(copy, *MODULES[module][1]).passed
            path.write_bytes(source)
            tried, noticed = tried + 1, noticed + (not survived)
            word = "SURVIVED" if survived else "noticed"
            print(f"{word:<8} {time.perf_counter() - start:4.0f} s  {mutant}", flush=True)
    print(f"{noticed} of {tried} mutants noticed, {tried - noticed} survived")
    return 0
