"""Write a page with the three tracks side by side: real sources, aligned, with shapes and differences.

    python -m compare.side_by_side                  all topics, to build/side-by-side.html
    python -m compare.side_by_side cnn vit --out page.html

A model runs on four MNIST images, or windows of a text, in float64 in each track, and each line of its forward pass
shows what it computed. The page needs no network and no other file.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from compare import cli
from compare.cli import command_line
from compare.files import write_atomically
from compare.side_by_side.topics import FILES, MODELS, TOPICS


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = cli.parser("side_by_side", __doc__, what="topics")
    options.add_argument(
        "topics", metavar="TOPIC", nargs="*", type=cli.one_of("topic", TOPICS),
        help=f"models: {', '.join(MODELS)}; files: {', '.join(FILES)} (default: all)",
    )  # fmt: skip
    cli.group(options, "output").add_argument(
        "--out", type=cli.output, metavar="FILE", help="the page (default: build/side-by-side.html)"
    )
    return options


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if the page was written, 2 for invalid arguments."""
    options = parser().parse_args(arguments)
    os.environ["JAX_PLATFORMS"] = "cpu"
    from compare.side_by_side.page import page

    out = options.out or cli.output("build/side-by-side.html")
    topics = list(dict.fromkeys(options.topics)) or TOPICS
    text = page(topics, lambda topic: print(f"{topic}: aligning its sources", flush=True))
    print(write_atomically(out, text.encode()).as_uri())
    return 0


if __name__ == "__main__":
    sys.exit(main())
