"""The bug zoo: classic mistakes, each a small edit of this project's own source. See docs/bugs.md."""
