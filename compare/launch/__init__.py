"""One training in multiple processes, on one or several machines."""
