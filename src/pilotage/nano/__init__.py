"""`nano`: a tiny model that fits a laptop, with its tokenizer, corpus and pretraining."""
