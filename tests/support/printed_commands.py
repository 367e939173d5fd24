"""The commands and code blocks that README.md and docs/ print."""

from __future__ import annotations

import re

from support.paths import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "notebooks" / "README.md",
    *sorted(ROOT.glob("docs/*.md")),
]


BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


PROSE = re.compile(r"`((?:python|make|nn3) [^`]+)`")  # in a sentence


def commands(text: str) -> set[str]:
    """Each command of a page, in one line, without what is said about it behind it."""
    found = {re.sub(r"\s+", " ", command) for command in PROSE.findall(BLOCK.sub("", text))}
    for language, block in BLOCK.findall(text):
        if language != "python":
            found |= {re.split(r"\s{3,}|\s#", line)[0] for line in re.sub(r"\n +", " ", block).splitlines()}
    named = {re.sub(r"^(\w+=\S+ )+", "", command) for command in found}
    return {command for command in named if re.match(r"(python (-m )?\w|make \w|nn3 \w)", command)}


def cases() -> list[tuple[str, str]]:
    return [(page.name, command) for page in PAGES for command in sorted(commands(page.read_text("utf-8")))]
