"""A pretrained language model that is given eyes: SmolLM2-135M as the text half of a Qwen2.5-VL."""
