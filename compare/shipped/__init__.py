"""The trained networks that are part of the project, each with its card; ``compare.cli`` finds them by name."""
