"""A comparison: its plan, and its runs one after the other."""
