"""The bug zoo: classic bugs, each a small edit of this project's own source. See docs/bugs.md."""
