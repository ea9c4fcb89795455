"""The toy in one room: a tiny model that fits a laptop, with its tokenizer, corpus and pretraining."""
