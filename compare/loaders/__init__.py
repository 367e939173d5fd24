"""The data loaders, timed side by side."""
