"""Both training stages, and how the base was made."""
