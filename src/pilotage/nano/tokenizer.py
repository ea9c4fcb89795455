"""The nano model's byte-level tokenizer: Qwen's special tokens, one token per cell, label, direction set and action."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import permutations

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS: tuple[str, ...] = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""Qwen's control tokens, in the order of their ids."""

TOOL_TOKENS: tuple[str, ...] = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
"""Added but not special in Qwen's tokenizers: they survive decoding."""

PRE_TOKEN_PATTERN = "|".join(
    (
        r" ?\(\d{1,2},\d{1,2}\)",  # a cell
        r"</?[a-z]+>",  # <answer> and its like
        r"\.? ?[A-Z][a-z]+(?: [a-z]+)?:",  # a label, with the full stop that ends the field before it
        r", so(?![a-z])",
        r" ?[A-Za-z]+",  # words, direction sets, actions
        r" ?\d{1,2}",
        r"[.,;:!?]?\n+",  # the end of a sentence and of its line
        r" ?[^\sA-Za-z\d]",
        r"\s",
    )
)
"""Every text is the concatenation of matches: the last two alternatives take any remaining character."""

CHAT_TEMPLATE = """\
{%- macro render(content) -%}
{%- if content is string -%}
{{- content -}}
{%- else -%}
{%- for part in content -%}
{%- if part.type == 'image' or 'image' in part or 'image_url' in part -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part.type == 'video' or 'video' in part -%}
{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- elif 'text' in part -%}
{{- part.text -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + render(message.content) + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
"""ChatML with Qwen3-VL's image markers; there is no default system turn."""

NUM_CELLS_PER_SIDE = 12
"""Cells (r,c) with r and c below this are one token each, whatever the training texts hold."""


def fixed_pieces() -> Iterator[str]:
    """Pieces that are one token in every nano tokenizer: the compact formats, with and without a leading space."""
    yield from ("system", "user", "assistant", "\n", ".\n", ".", " ", ",", ", so", " so", " back", " none")
    yield from ("<answer>", "</answer>")
    fields = ("Size", "Player", "Goal", "Holes", "Open", "Agent", "Printer", "Table", "Legal", "Route")
    for field in (*fields, "Beside printer", "Beside table"):
        yield from (f"{field}:", f" {field}:", f". {field}:")
    for space in (" ", ""):
        yield from (f"{space}{number}" for number in range(NUM_CELLS_PER_SIDE + 1))
        yield from (f"{space}{action}" for action in ("L", "D", "R", "U", "PICK", "DROP"))
    for num_directions in range(2, 5):
        yield from (" " + "".join(chosen) for chosen in permutations("LDRU", num_directions))
    for row in range(NUM_CELLS_PER_SIDE):
        yield from (f" ({row},{column})" for column in range(NUM_CELLS_PER_SIDE))


def build_nano_tokenizer(
    texts: Iterable[str], *, vocab_size: int = 1024, min_count: int = 2
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer in which each frequent piece of `texts` is one token.

    The vocabulary is Qwen's special tokens, the 256 bytes, `fixed_pieces()` and then the most frequent pieces of
    `texts` (at least `min_count` times, ties in alphabetical order), at most `vocab_size` in all. A piece outside
    the vocabulary falls to its bytes, so every text encodes and decodes to itself.

    Raises ValueError when `vocab_size` cannot hold what is always there.
    """
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRE_TOKEN_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )

    def pieces_of(text: str) -> list[str]:
        return [piece for piece, _ in splitter.pre_tokenize_str(text)]

    vocab: dict[str, int] = {}

    def add(piece: str) -> None:
        vocab.setdefault(piece, len(vocab))

    for token in (*SPECIAL_TOKENS, *TOOL_TOKENS):
        add(token)
    for byte in sorted(pre_tokenizers.ByteLevel.alphabet()):
        add(byte)
    for fixed in fixed_pieces():
        pieces = pieces_of(fixed)
        assert len(pieces) == 1, f"the pre-tokenizer splits {fixed!r} into {pieces}"
        add(pieces[0])
    if len(vocab) > vocab_size:
        raise ValueError(f"vocab_size {vocab_size} is too small: {len(vocab)} tokens are always there")

    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(pieces_of(text))
    for piece, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if len(vocab) == vocab_size or count < min_count:
            break
        add(piece)

    # ignore_merges takes a whole piece that is in the vocabulary as it is; with no merges the rest are bytes.
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=True))
    backend.pre_tokenizer = splitter  # pyright: ignore[reportAttributeAccessIssue]
    backend.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in TOOL_TOKENS])
    # A class without an __init__ of its own: transformers then keeps tokenizer.json as it is, where Qwen2Tokenizer
    # would put Qwen's own pre-tokenizer in place of ours.
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=[
            token for token in SPECIAL_TOKENS if token not in ("<|im_end|>", "<|endoftext|>")
        ],
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=2048,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
