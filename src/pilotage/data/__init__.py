"""Data sets: states drawn, split, rendered, written and read again. No torch here."""
