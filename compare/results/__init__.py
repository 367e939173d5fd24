"""results.json of a comparison: its types, its reader, and the figures that every report takes from it."""
