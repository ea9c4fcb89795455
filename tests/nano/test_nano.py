"""The nano model: its tokenizer, its directory, its processor."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForImageTextToText, AutoTokenizer

from pilotage.backbones.families.qwen_vl import ImageTextProcessor
from pilotage.backbones.save import save_backbone
from pilotage.nano.model import NanoConfig, build_nano
from pilotage.nano.tokenizer import SPECIAL_TOKENS, TOOL_TOKENS, build_nano_tokenizer
from tiny import TEXTS, TINY, tiny_tokenizer

BARE = build_nano_tokenizer([])


def pieces(text: str, tokenizer=BARE) -> list[str]:
    return [str(tokenizer.decode([token])) for token in tokenizer(text)["input_ids"]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Size: 4. Player: (2,0). Goal: (1,3). Holes: (0,1) (3,2).\nRoute: (2,0) (1,0).\n<answer>U R</answer>",
            "Size:| 4|. Player:| (2,0)|. Goal:| (1,3)|. Holes:| (0,1)| (3,2)|.\n|Route:| (2,0)| (1,0)|.\n|"
            "<answer>|U| R|</answer>",
        ),
        (". Holes: none.\nRoute:", ". Holes:| none|.\n|Route:"),
        (
            "Open: (0,0) RD (0,1) LR (0,2) DRU (11,11) LDRU.\nRoute: back (2,2) (1,2), so (0,0) (0,1).",
            "Open:| (0,0)| RD| (0,1)| LR| (0,2)| DRU| (11,11)| LDRU|.\n|"
            "Route:| back| (2,2)| (1,2)|, so| (0,0)| (0,1)|.",
        ),
        (
            "Agent: (0,1). Printer: (2,2). Table: (3,0).\nRoute: (0,1) PICK (1,0) DROP.\n<answer>D PICK DROP</answer>",
            "Agent:| (0,1)|. Printer:| (2,2)|. Table:| (3,0)|.\n|Route:| (0,1)| PICK| (1,0)| DROP|.\n|"
            "<answer>|D| PICK| DROP|</answer>",
        ),
        (
            "5. Beside printer: (1,2).\n6. Beside table: (2,0).\n7. Legal: L PICK.",
            "5|. Beside printer:| (1,2)|.\n|6|. Beside table:| (2,0)|.\n|7|. Legal:| L| PICK|.",
        ),
    ],
)
def test_compact_formats_are_one_token_a_piece_without_any_training_text(text, expected):
    assert "|".join(pieces(text)) == expected


def test_every_cell_up_to_eleven_is_one_token():
    cells = [f" ({row},{column})" for row in range(12) for column in range(12)]
    ids = BARE("".join(cells))["input_ids"]
    assert len(ids) == len(set(ids)) == 144


@given(st.text())
def test_any_text_round_trips(text):
    for tokenizer in (BARE, tiny_tokenizer()):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


@given(st.text(alphabet="SizePlayer:(0123,) LDRU.\n<answer>/", max_size=60))
def test_tokens_of_ascii_text_spell_it_character_by_character(text):
    assert "".join(pieces(text)) == text


def test_all_bytes_and_qwen_tokens_are_there_and_the_special_ones_are_special():
    vocab = BARE.get_vocab()
    assert {vocab[token] for token in SPECIAL_TOKENS} == set(range(14))
    assert all(token in vocab for token in TOOL_TOKENS)
    assert set(BARE.all_special_tokens) == set(SPECIAL_TOKENS)
    assert (BARE.eos_token, BARE.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert len(ByteLevel.alphabet()) == 256 and all(byte in vocab for byte in ByteLevel.alphabet())
    assert BARE.decode(BARE("<|im_start|>a<|im_end|>")["input_ids"], skip_special_tokens=True) == "a"


def test_frequent_words_become_tokens_and_the_size_is_kept():
    size = len(BARE) + 2
    tokenizer = build_nano_tokenizer(["ice ice ice", "snow snow snow", "once"], vocab_size=size)
    assert len(tokenizer) == size
    assert pieces(" ice once", tokenizer) == [" ice", " ", "o", "n", "c", "e"]
    with pytest.raises(ValueError, match=r"vocab_size 100 is too small: \d+ tokens"):
        build_nano_tokenizer([], vocab_size=100)


CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Plan."}]},
]


def test_chat_template_is_qwens_format():
    assert BARE.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Plan.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    answered = [{"role": "user", "content": "Go."}, {"role": "assistant", "content": "L"}]
    assert BARE.apply_chat_template(answered, tokenize=False) == (
        "<|im_start|>user\nGo.<|im_end|>\n<|im_start|>assistant\nL<|im_end|>\n"
    )


def test_a_saved_directory_loads_with_stock_classes_and_the_same_tokenizer(tmp_path):
    model, processor = build_nano(TINY, tiny_tokenizer(), seed=1)
    save_backbone(model, processor, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for text in (*TEXTS, "Unheard-of wörds 雪!", "(3,4) <answer>"):
        assert tokenizer(text)["input_ids"] == tiny_tokenizer()(text)["input_ids"]
    assert tokenizer.backend_tokenizer.to_str() == tiny_tokenizer().backend_tokenizer.to_str()
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == tiny_tokenizer().apply_chat_template(
        CHAT, tokenize=False
    )
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert type(loaded).__name__ == "Qwen3VLForConditionalGeneration"
    state = loaded.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert loaded.config.text_config.rope_parameters["mrope_section"] == [4, 2, 2]
    assert loaded.config.image_token_id == tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert loaded.generation_config.eos_token_id == model.generation_config.eos_token_id
    files = {entry.name for entry in tmp_path.iterdir()}
    assert files >= {"config.json", "generation_config.json", "model.safetensors", "preprocessor_config.json"}
    again = ImageTextProcessor.load(str(tmp_path))
    assert again.image_processor.to_dict() == processor.image_processor.to_dict()
    assert "ImageTextProcessor" not in (tmp_path / "tokenizer_config.json").read_text()
    assert "ImageTextProcessor" not in (tmp_path / "processor_config.json").read_text()


def test_weights_depend_on_the_seed_alone_and_the_global_generator_is_untouched():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, _ = build_nano(TINY, tiny_tokenizer(), seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    second, _ = build_nano(TINY, tiny_tokenizer(), seed=1)
    other, _ = build_nano(TINY, tiny_tokenizer(), seed=2)
    weight, same, different = (
        model.model.language_model.layers[0].mlp.up_proj.weight for model in (first, second, other)
    )
    assert torch.equal(weight, same) and not torch.equal(weight, different)


def test_default_sizes_are_a_few_million_and_the_embedding_is_tied():
    model, _ = build_nano(NanoConfig(), BARE, seed=0)
    assert 1_000_000 < sum(parameter.numel() for parameter in model.parameters()) < 3_000_000
    assert model.lm_head.weight is model.get_input_embeddings().weight


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mrope_section": (6, 5, 4)}, r"mrope_section \(6, 5, 4\) must add up to head_dim / 2 = 16"),
        ({"kv_heads": 3}, "heads 4 must be a multiple of kv_heads 3"),
        ({"vision_hidden": 90}, "vision_hidden 90 must be a multiple"),
    ],
)
def test_sizes_that_do_not_fit_together_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        NanoConfig(**change)
