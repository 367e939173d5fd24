"""One environment for every test, set before anything imports NumPy, JAX or PyTorch.

Environment variables rather than calls: the worker processes that tests start inherit
them, and a test that needs no framework does not pay for importing one.

    NN_GPU=1 make test ARGS="-n 0 -m gpu"     runs the tests marked gpu on the accelerator
"""

from __future__ import annotations

import ast
import gc
import os
import signal
import sys
from pathlib import Path
from typing import Any

os.environ.update(
    # Two tests run at once on two cores: one thread each.
    OMP_NUM_THREADS="1",
    OPENBLAS_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    VECLIB_MAXIMUM_THREADS="1",
    # Two CPU devices everywhere, so that data parallelism is tested on any machine.
    XLA_FLAGS="--xla_force_host_platform_device_count=2",
    XLA_PYTHON_CLIENT_PREALLOCATE="false",
    JAX_DEFAULT_MATMUL_PRECISION="highest",
    # No window, no telemetry, and nobody's own tracking server.
    MPLBACKEND="Agg",
    MLFLOW_DISABLE_TELEMETRY="true",
    # Other tests keep the machine busy: nobody waits for a quiet one.
    NN_WAIT="0s",
)
os.environ.pop("MLFLOW_TRACKING_URI", None)
if "NN_GPU" not in os.environ:
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # Programs that run for milliseconds are not worth optimising: a fifth of the time for what compiles.
    os.environ["XLA_FLAGS"] += (
        " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
        " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    )
    os.environ["TRITON_INTERPRET"] = "1"  # it is read by whoever imports Triton first: torch.compile in another test

import jaxtyping
import numpy as np
import pytest
from support.paths import SHARED_DATA

# Every call into a track is checked against the shapes in its signature.
jaxtyping.install_import_hook(["numpy_nn", "jax_nn", "torch_nn"], "beartype.beartype")


# Delete this when Python 3.11.7 and 3.12.1 no longer matter: https://github.com/python/cpython/issues/106905.
# Until then all calls of ast.parse share one depth counter. A collection in the middle of one can finalise an object
# whose __del__ fails, and printing its traceback parses the failing line: the outer call then raises SystemError.
if sys.version_info < (3, 12, 2):

    def parse_without_collection(*source: Any, parse: Any = ast.parse, **options: Any) -> ast.AST:
        """``ast.parse`` with the garbage collector off."""
        collecting = gc.isenabled()
        gc.disable()
        try:
            return parse(*source, **options)
        finally:
            if collecting:
                gc.enable()

    ast.parse = parse_without_collection  # type: ignore[assignment]

# Behind `&` a shell has its children ignore Ctrl-C, and they theirs: programs that tests interrupt would go on.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the command line's tests first: they share a comparison that takes half a minute."""
    items.sort(key=lambda item: item.path.stem != "test_run_all")


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over the frameworks and the tests, which are loaded by now: it takes a second."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Let it take everything away at the end."""
    gc.unfreeze()


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes by their argument: those of a packed file hold the time, and the two processes must agree on names."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture
def rng() -> np.random.Generator:
    """Fresh and seeded: a test sees the same numbers whatever ran before it."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of larger data sets and foreign weights that may lie beside the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the data folder {SHARED_DATA}, which is not here")
    return SHARED_DATA
