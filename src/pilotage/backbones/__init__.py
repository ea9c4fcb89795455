"""Backbones: a vision-language model with its processor, and how views become tensors for it."""
