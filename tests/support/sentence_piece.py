"""A tokenizer of the kind that Gemma and Llama 2 have, which is not byte-level."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers


def sentence_piece_tokenizer(special: Sequence[str]) -> Tokenizer:
    """Characters as they are, `\u2581` for a space, `<0xNN>` for a byte that is in none of them."""
    words = [*(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *map(chr, range(33, 127))]
    vocab = {word: place for place, word in enumerate(words)}
    made = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Replace(" ", "\u2581")
    made.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return made
