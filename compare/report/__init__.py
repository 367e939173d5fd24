"""From results.json to the report."""
