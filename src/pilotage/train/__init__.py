"""Training: supervised stages, on-policy distillation, and what both need."""
