"""``python -m compare.bench_report DIR``: the older name of ``python -m compare.report DIR`` for a benchmark."""

import runpy

if __name__ == "__main__":
    runpy.run_module("compare.report", run_name="__main__")
