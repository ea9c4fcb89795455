"""Studies: many runs side by side, with their tables."""
