"""Pure tensor functions of on-policy distillation: divergences, estimators, reductions, spans.

No model code and no task names: hidden states, head weights and token ids come in, nats per token go out.
"""
