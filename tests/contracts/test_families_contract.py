"""What every family of models keeps to, on tiny random models: real classes, processors and layouts of transformers."""

from __future__ import annotations

import io
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoTokenizer, Idefics3Processor

from distill_run import tiny_config, tiny_examples
from family_models import TINIES, save_tiny
from pilotage.backbones.base import family_of, model_types
from pilotage.backbones.encode import encode_views
from pilotage.backbones.load import (
    Backbone,
    BackboneError,
    LoraSettings,
    freeze_vision,
    load_backbone,
    load_without_weights,
    with_lora,
)
from pilotage.backbones.processed import ProcessorFamily
from pilotage.distill.divergences import ForwardKL
from pilotage.distill.estimators import FullVocabulary
from pilotage.errors import PilotageError
from pilotage.evaluate import evaluate
from pilotage.pictures import read_rgb
from pilotage.records import Rollout, View
from pilotage.rollouts.transformers_engine import TransformersEngine
from pilotage.train.distill import distill
from pilotage.train.distill_config import FrozenCopy
from pilotage.train.sft import SftConfig, run_sft
from pilotage.train.step.scoring import encode_rollouts, head_of, sampled_logprobs, score_rows
from tiny import generate, image_view, mixed_views, picture, png, tiny_backbone

NATS = 1e-5
"""How far log-probabilities of one token may be apart, in float32."""
SEEING = [name for name, tiny in TINIES.items() if tiny.sees]


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: tmp_path_factory.mktemp("families") / name for name in TINIES}


@pytest.fixture
def directory(request: pytest.FixtureRequest, directories: dict[str, Path]) -> Path:
    path = directories[request.param]
    if not path.exists():
        save_tiny(TINIES[request.param], path)
    return path


every = pytest.mark.parametrize("directory", list(TINIES), indirect=True)
seeing = pytest.mark.parametrize("directory", SEEING, indirect=True)


def two_pictures(*seeds: int) -> View:
    content = [{"type": "image"}, {"type": "text", "text": "and"}, {"type": "image"}]
    images = tuple(png(picture(2, 1 + seed % 3, seed=seed)) for seed in seeds)
    return View(name="student", messages=[{"role": "user", "content": content}], images=images)


def some_views(backbone: Backbone) -> list[View]:
    """Of unequal lengths: words, a picture, two pictures."""
    return [
        view for view in (*mixed_views(), two_pictures(3, 4)) if backbone.supports_images or not view.images
    ]


def sampled(backbone: Backbone, views: Sequence[View]) -> list[Rollout]:
    names = [str(place) for place in range(len(views))]
    engine = TransformersEngine(backbone, batch_size=4)
    return generate(engine, views, example_ids=names, temperature=1.0, max_new_tokens=10, num_return=2)


def rescored(
    backbone: Backbone,
    views: Sequence[View],
    rollouts: Sequence[Rollout],
    *,
    share: bool = False,
    size: int = 3,
) -> list[torch.Tensor]:
    encoded = encode_rollouts(backbone, views, rollouts, max_prompt_tokens=None, pad_to_multiple=16)
    states = score_rows(
        backbone.model,
        encoded,
        batch_size=size,
        pad_to_multiple=16,
        share_prefix=share and backbone.shares_prefixes,
    )
    return [
        sampled_logprobs(head_of(backbone.model, states_TH), torch.tensor(rollout.token_ids), temperature=1.0)
        for states_TH, rollout in zip(states, rollouts, strict=True)
    ]


def gap(first: torch.Tensor, second: Any) -> float:
    return float((first - torch.as_tensor(second)).abs().max())


def test_every_family_that_ships_is_held_to_it() -> None:
    assert set(TINIES) == set(model_types())


@every
@torch.no_grad()
def test_a_prompt_is_read_as_transformers_reads_it(directory: Path) -> None:
    """Against the model's own positions and masks, with the processor's answer to each prompt alone."""
    backbone = load_backbone(directory)
    views = some_views(backbone)
    inputs: dict[str, Any] = {**encode_views(backbone, views)}
    ours_BV = backbone.model(**inputs).logits[:, -1].log_softmax(-1)
    for view, ours_V in zip(views, ours_BV, strict=True):
        text = backbone.processor.apply_chat_template(
            view.messages, add_generation_prompt=True, tokenize=False
        )
        text += view.prefill or ""
        if view.images:
            shown = [read_rgb(image) for image in view.images]
            stock = backbone.processor(
                text=[text], images=shown, add_special_tokens=False, return_tensors="pt"
            )
        else:
            stock = backbone.tokenizer(text, add_special_tokens=False, return_tensors="pt")
            stock.pop("token_type_ids", None)
        assert gap(ours_V, backbone.model(**stock).logits[0, -1].log_softmax(-1)) < 10 * NATS


@every
def test_a_rollout_scored_again_has_its_own_log_probabilities(directory: Path) -> None:
    backbone = load_backbone(directory)
    views = some_views(backbone)
    rollouts = sampled(backbone, views)
    assert not {token for rollout in rollouts for token in rollout.token_ids} & set(backbone.vision_token_ids)
    views = [view for view in views for _ in range(2)]
    for share, size in ((False, 1), (True, 5)):
        for rollout, now_T in zip(
            rollouts, rescored(backbone, views, rollouts, share=share, size=size), strict=True
        ):
            assert gap(now_T, rollout.logprobs) < NATS


@seeing
def test_a_picture_changes_its_own_row_alone(directory: Path) -> None:
    backbone = load_backbone(directory)
    views = some_views(backbone)
    rollouts = sampled(backbone, views)[::2]
    before = rescored(backbone, views, rollouts)
    place = 1
    changed = [*views]
    changed[place] = image_view(png(picture(3, seed=8)))
    for row, (was_T, is_T) in enumerate(zip(before, rescored(backbone, changed, rollouts), strict=True)):
        assert gap(is_T, was_T) > 1e-3 if row == place else gap(is_T, was_T) < NATS


@seeing
def test_each_of_several_pictures_counts_at_its_place(directory: Path) -> None:
    backbone = load_backbone(directory)
    views = [two_pictures(3, 6), two_pictures(6, 3), two_pictures(3, 9), two_pictures(9, 6)]
    rollout = sampled(backbone, views[:1])[0]
    first, *others = rescored(backbone, views, [rollout] * len(views))
    assert all(gap(first, other) > 1e-3 for other in others)


@seeing
def test_vision_is_what_pictures_move_and_words_do_not(directory: Path) -> None:
    backbone = load_backbone(directory)
    moved_by = []
    for views in ([view for view in mixed_views() if bool(view.images) == sees] for sees in (False, True)):
        backbone.model.zero_grad()
        backbone.model(**encode_views(backbone, views)).logits[:, -1].log_softmax(-1)[:, 5].sum().backward()
        named = backbone.model.named_parameters()
        moved_by.append({name for name, value in named if value.grad is not None and value.grad.any()})
    by_words, by_pictures = moved_by
    assert by_pictures - by_words == set(filter(backbone.family.is_vision, by_pictures | by_words))


# -- directories ------------------------------------------------------------------------------------------------------

PROCESSED = [name for name in SEEING if isinstance(family_of(name), ProcessorFamily)]


def settings(path: Path, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads((path / name).read_text())
    change(content)
    (path / name).write_text(json.dumps(content))


def pictures_of(path: Path) -> Any:
    """What the processor of a directory makes of a picture."""
    family, view = family_of(path.name), image_view(png(picture(2, 3, seed=1)))
    assert family is not None
    processor: Any = family.load_processor(path)
    text = processor.apply_chat_template(view.messages, add_generation_prompt=True, tokenize=False)
    shown = [read_rgb(image) for image in view.images]
    return processor(text=[text], images=shown, add_special_tokens=False, return_tensors="pt")


@pytest.mark.parametrize("directory", PROCESSED, indirect=True)
def test_an_older_layout_is_read_alike(directory: Path, tmp_path: Path) -> None:
    """Image settings in a file of their own, under the name of the processor that needs torchvision."""
    older = shutil.copytree(directory, tmp_path / directory.name)
    settings(older, "processor_config.json", lambda content: content.pop("image_processor"))
    rename = {"image_processor_type": TINIES[directory.name].image_processor.removesuffix("Pil") + "Fast"}
    settings(older, "preprocessor_config.json", lambda content: content.update(rename))
    now, then = pictures_of(directory), pictures_of(older)
    assert now.keys() == then.keys() and all(torch.equal(now[name], then[name]) for name in now)


@pytest.mark.parametrize("directory", PROCESSED, indirect=True)
def test_what_is_saved_has_the_names_of_transformers(directory: Path, tmp_path: Path) -> None:
    family = family_of(directory.name)
    assert isinstance(family, ProcessorFamily)
    family.load_processor(directory).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    assert saved["processor_class"] == family.processor_class
    assert saved["image_processor"]["image_processor_type"] + "Pil" == TINIES[directory.name].image_processor
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template


@pytest.mark.parametrize("directory", PROCESSED, indirect=True)
def test_another_model_s_processor_is_refused(directory: Path, tmp_path: Path) -> None:
    other = shutil.copytree(directory, tmp_path / directory.name)

    def change(content: dict[str, Any]) -> None:
        names = ("image_seq_len", "image_seq_length", "num_image_tokens")
        name = next((name for name in names if name in content), None)
        if name is None:
            content["image_processor"]["merge_size"] = 1
        else:
            content[name] += 1

    settings(other, "processor_config.json", change)
    with pytest.raises(BackboneError, match=r"its processor has \w+ \d+, config\.json \d+: copy") as raised:
        load_without_weights(other)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("directory", ["idefics3"], indirect=True)
def test_a_processor_that_cannot_be_built_is_one_line_with_the_remedy(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise ImportError("\nIdefics3Processor requires the Torchvision library\nbut it was not found.")

    monkeypatch.setattr(Idefics3Processor, "__init__", missing)
    message = r"needs a package that is not installed \(Idefics3Processor requires the Torchvision .*\): pip install"
    with pytest.raises(BackboneError, match=message) as raised:
        load_backbone(directory)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("directory", ["gemma3"], indirect=True)
def test_logits_that_are_not_the_head_s_are_refused(directory: Path, tmp_path: Path) -> None:
    capped = shutil.copytree(directory, tmp_path / directory.name)
    settings(
        capped,
        "config.json",
        lambda content: content["text_config"].update({"final_logit_softcapping": 30.0}),
    )
    with pytest.raises(BackboneError, match=r"behind the head \(final_logit_softcapping 30\.0\)"):
        load_backbone(capped)


@pytest.mark.parametrize("directory", ["qwen3", "llama"], indirect=True)
def test_a_model_of_words_is_shown_no_picture_and_has_no_vision_to_freeze(directory: Path) -> None:
    backbone = load_backbone(directory)
    with pytest.raises(PilotageError, match="row 1: .* reads text only, but a view has an image; take"):
        encode_views(backbone, mixed_views())
    with pytest.raises(
        BackboneError, match="freeze_vision matches no parameter of .* '(qwen[23]|llama)' model"
    ):
        freeze_vision(backbone)


@pytest.mark.parametrize("directory", ["llama"], indirect=True)
def test_a_model_of_words_is_not_measured_on_pictures(directory: Path, tmp_path: Path) -> None:
    """Each row would be a failure of its own."""
    engine = TransformersEngine(load_backbone(directory))
    asked: dict[str, Any] = {"stage": "base", "prompts": "brief", "max_new_tokens": 4, "model": "base"}
    with pytest.raises(PilotageError, match="reads text only, and image, text show it a picture"):
        evaluate(engine, tiny_examples()[:2], out=tmp_path, conditions=("image", "text"), **asked)
    summary = evaluate(engine, tiny_examples()[:2], out=tmp_path, conditions=("text",), **asked)
    assert list(summary.conditions) == ["text"]


@pytest.mark.parametrize("directory", ["llama"], indirect=True)
def test_a_teacher_of_words_is_shown_no_picture(directory: Path, tmp_path: Path) -> None:
    config = tiny_config(view="student_with_plan", weights=FrozenCopy(source=str(directory)))
    with pytest.raises(
        PilotageError, match="stage2: teacher .* reads text only, and view 'student_with_plan'"
    ):
        distill(config, student=tiny_backbone(), examples=tiny_examples()[:4], run_dir=tmp_path)


# -- training ---------------------------------------------------------------------------------------------------------

STAGE1 = SftConfig(
    prompts="brief",
    steps=1,
    batch_size=3,
    micro_batch_size=3,
    lr=1e-2,
    schedule="constant",
    warmup_share=0.0,
)


def moved(before: Backbone, after: Backbone) -> set[str]:
    parameters = dict(after.model.named_parameters())
    return {
        name
        for name, parameter in before.model.named_parameters()
        if not torch.equal(parameter, parameters[name])
    }


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, logger="pilotage.backbones.load"):
        yield caplog


@seeing
def test_stage_1_trains_all_but_a_frozen_vision(
    directory: Path, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    backbone = load_backbone(directory)
    saved = run_sft(replace(STAGE1, freeze_vision=True), backbone, tiny_examples()[:3], tmp_path)
    names = moved(load_backbone(directory), load_backbone(saved))
    assert names and not any(map(backbone.family.is_vision, names))
    [line] = [record.getMessage() for record in log.records if record.name == "pilotage.backbones.load"]
    assert line.startswith("vision is frozen: ") and all(
        f"model.{name}" in line for name in vision_of(backbone)
    )


@every
def test_a_stage_that_goes_on_from_a_checkpoint_ends_as_one_that_was_never_stopped(
    directory: Path, tmp_path: Path
) -> None:
    """Directories as the hub has them name their weights otherwise than the model that is made of them."""
    text = {} if load_backbone(directory).supports_images else {"retention_share": 1.0}
    stage = replace(STAGE1, steps=4, checkpoint_every=2, **text)
    models = []
    for name in ("whole", "stopped"):
        saved = run_sft(stage, load_backbone(directory), tiny_examples()[:3], tmp_path / name)
        if name == "stopped":
            shutil.rmtree(saved)
            shutil.rmtree(saved.parent / "checkpoint-4")
            run_sft(stage, load_backbone(directory), tiny_examples()[:3], tmp_path / name)
        models.append(load_file(saved / "model.safetensors"))
    assert models[0].keys() == models[1].keys()
    assert [name for name in models[0] if not torch.equal(models[0][name], models[1][name])] == []
    assert moved(load_backbone(directory), load_backbone(tmp_path / "whole" / STAGE1.stage / "model"))


def vision_of(backbone: Backbone) -> list[str]:
    names = [name for name, _ in backbone.model.named_parameters() if backbone.family.is_vision(name)]
    return sorted({name.split(".")[1] for name in names})


@every
def test_stage_2_trains_all_of_it_and_what_it_saves_is_what_was_trained(
    directory: Path, tmp_path: Path
) -> None:
    backbone = load_backbone(directory)
    config = tiny_config(
        estimator=FullVocabulary(divergence=ForwardKL()),
        student_view="student" if backbone.supports_images else "symbolic",
        weights=FrozenCopy(),
        warmup_share=0.0,
        prompts_per_step=2,
    )
    saved = load_backbone(distill(config, student=backbone, examples=tiny_examples()[:2], run_dir=tmp_path))
    names = moved(load_backbone(directory), saved)
    assert any(not backbone.family.is_vision(name) for name in names)
    assert any(map(backbone.family.is_vision, names)) == backbone.supports_images
    views = some_views(backbone)
    rollouts = sampled(backbone, views)[::2]
    for was_T, is_T in zip(*(rescored(each, views, rollouts) for each in (backbone, saved)), strict=True):
        assert gap(was_T, is_T) < NATS


@every
def test_an_adapter_sits_on_language_alone_and_is_merged(
    directory: Path, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    backbone = load_backbone(directory)
    shows = {} if backbone.supports_images else {"retention_share": 1.0}
    config = replace(STAGE1, lora=LoraSettings(rank=2, alpha=4), **shows)
    saved = load_backbone(run_sft(config, backbone, tiny_examples()[:3], tmp_path))
    adapted = {name.removesuffix(".weight") for name in moved(load_backbone(directory), saved)}
    assert adapted and not any(map(backbone.family.is_vision, adapted))
    linears = {name for name, module in saved.model.named_modules() if isinstance(module, torch.nn.Linear)}
    inside = {name for name in linears if not backbone.family.is_vision(name) and name != "lm_head"}
    # Experts are no linear layers, and GLM-4.5V has others beside them that peft leaves out.
    assert adapted == {
        name for name in inside if "moe" not in backbone.model.config.model_type or "attn" in name
    }
    assert f"LoRA of rank 2 on {len(adapted)} linear layers" in log.text


@seeing
def test_a_picture_s_patches_and_tokens_are_those_that_the_forward_is_given(directory: Path) -> None:
    """The estimate of memory goes by them."""
    backbone = load_backbone(directory)
    view = image_view(png(picture(3, 2)))
    inputs = encode_views(backbone, [view])
    width, height = Image.open(io.BytesIO(view.images[0])).size
    tokens = int((inputs["input_ids"] == backbone.image_token_id).sum())
    # Some have separators between the tiles of a picture.
    assert tokens <= backbone.family.num_image_tokens(backbone.processor, width, height) <= 2 * tokens
    patches, together = backbone.family.num_patches(backbone, width, height)
    pixels = inputs["pixel_values"]
    side = backbone.model.config.vision_config.patch_size
    side = side if isinstance(side, int) else side[0]
    per_patch = pixels.shape[-1] if pixels.ndim == 2 else 3 * side**2
    assert patches == pixels.numel() // per_patch and patches % together == 0


@every
def test_an_adapter_that_matches_nothing_is_refused(directory: Path) -> None:
    with pytest.raises(
        BackboneError, match=r"'nothing' match no linear layer of .*; there are .*q_proj"
    ) as raised:
        with_lora(load_backbone(directory), LoraSettings(rank=2, alpha=4, target_modules="nothing"))
    assert "\n" not in str(raised.value)


@every
def test_an_adapter_on_the_head_is_refused(directory: Path) -> None:
    with pytest.raises(BackboneError, match=r"match lm_head, the head of .*: name other layers"):
        with_lora(
            load_backbone(directory), LoraSettings(rank=2, alpha=4, target_modules=r".*(q_proj|lm_head)")
        )
