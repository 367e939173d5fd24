"""``python -m compare.bench_report DIR``: the older name of ``python -m compare.benchmark.report DIR``."""

import sys

from compare.benchmark.report import main

if __name__ == "__main__":
    sys.exit(main())
