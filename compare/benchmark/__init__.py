"""The benchmark: trials, tables, plots and the report."""
