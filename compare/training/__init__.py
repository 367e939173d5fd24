"""The training loop, its clocks, and what it saves."""
