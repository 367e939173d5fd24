"""One comparison: its plan, and its runs in turn."""
