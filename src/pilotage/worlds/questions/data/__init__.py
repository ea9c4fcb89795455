"""Sets of questions: built from states, imported from elsewhere, on disk."""
