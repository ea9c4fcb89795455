"""Households: one model as scheduler and five capabilities, on BabyAI."""
