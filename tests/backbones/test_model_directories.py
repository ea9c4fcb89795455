"""A model directory that is not whole, or that a stranger made, is refused in one line before a weight is read."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
import transformers.modeling_utils
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from pilotage.backbones import load
from pilotage.backbones.checkpoint import INDEX, SINGLE
from pilotage.backbones.load import (
    NANO_DIRECTORY,
    BackboneError,
    load_backbone,
    load_shape,
    load_without_weights,
)
from pilotage.backbones.save import save_backbone
from pilotage.cli.main import main
from pilotage.nano.model import build_nano
from tiny import TINY, tiny_tokenizer

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
NORM = "model.language_model.norm.weight"
EMBEDDING = "model.language_model.embed_tokens.weight"
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 6389568\n"
IMAGE_FILES = ("preprocessor_config.json", "processor_config.json")

Weights = dict[str, torch.Tensor]
Damage = Callable[[Path], Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "model"
    save_backbone(*build_nano(TINY, tiny_tokenizer(), seed=3), path)
    return path


@pytest.fixture
def directory(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "model")


def weights(change: Callable[[Weights], Weights]) -> Damage:
    return lambda d: save_file(change(load_file(d / SINGLE)), d / SINGLE, metadata={"format": "pt"})


def without(*parts: str) -> Damage:
    return weights(lambda kept: {n: w for n, w in kept.items() if not any(part in n for part in parts)})


def settings(name: str = "config.json", **changed: Any) -> Damage:
    """Replaces fields of a JSON file; a double underscore leads into an inner one."""

    def change(directory: Path) -> None:
        content = json.loads((directory / name).read_text())
        for path, value in changed.items():
            *outer, last = path.split("__")
            inner = content
            for part in outer:
                inner = inner[part]
            inner[last] = value
        (directory / name).write_text(json.dumps(content))

    return change


def text(name: str, content: str) -> Damage:
    return lambda d: (d / name).write_text(content)


def removed(*names: str) -> Damage:
    return lambda d: [(d / name).unlink() for name in names]


def cut(name: str) -> Damage:
    return lambda d: os.truncate(d / name, (d / name).stat().st_size // 2)


def in_shards(directory: Path) -> None:
    kept = load_file(directory / SINGLE)
    names = sorted(kept)
    (directory / SINGLE).unlink()
    weight_map = {}
    for shard, part in zip(SHARDS, (names[::2], names[1::2]), strict=True):
        save_file({name: kept[name] for name in part}, directory / shard, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, shard)
    (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def indexed_as(shard: Any) -> Damage:
    """Shards whose index names `shard` for one parameter."""
    return both(in_shards, settings(INDEX, **{f"weight_map__{NORM}": shard}))


def first_shard_alone(directory: Path) -> None:
    in_shards(directory)
    index = json.loads((directory / INDEX).read_text())
    index["weight_map"] = {n: shard for n, shard in index["weight_map"].items() if shard == SHARDS[0]}
    (directory / INDEX).write_text(json.dumps(index))


def both(*damages: Damage) -> Damage:
    return lambda d: [damage(d) for damage in damages]


def pickled(name: str) -> Damage:
    return lambda d: torch.save({}, d / name)


def linked(target: str) -> Damage:
    return both(removed(SINGLE), lambda d: (d / SINGLE).symlink_to(target))


def emptied(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()


ADAPTER = text("adapter_config.json", '{"base_model_name_or_path": "nowhere/at-all"}')
BITS = {"quant_method": "bitsandbytes", "load_in_4bit": True}

PARAMETERS: dict[str, tuple[Damage, str]] = {
    "no vision": (
        without("visual"),
        rf"{SINGLE} lacks model\.visual\.blocks\.0\.attn\.proj\.bias and 26 more",
    ),
    "a layer missing": (
        without("language_model.layers.1."),
        r"lacks model\.language_model\.layers\.1\.input",
    ),
    "another family's names": (
        weights(lambda kept: {n.replace("model.language_model", "llm"): w for n, w in kept.items()}),
        # Not the tied head, which is no parameter of its own.
        r"lacks model\.language_model\.embed_tokens\.weight and 23 more .* holds llm\.embed_tokens\.weight and 23",
    ),
    "tied in text_config alone": (
        settings(tie_word_embeddings=False),
        r'lacks lm_head\.weight, .*: set "tie_word_embeddings": true at the top of config\.json',
    ),
    "unexpected": (weights(lambda kept: kept | {"extra.bias": torch.zeros(3)}), r"holds extra\.bias, which"),
    "misshapen": (
        weights(lambda kept: kept | {NORM: torch.ones(3)}),
        rf"{SINGLE} holds {NORM} with shape \[3\], and config\.json says \[32\]",
    ),
    "a giant's configuration": (
        settings(text_config__vocab_size=10**10),
        rf"{EMBEDDING} with shape \[557, 32\]",
    ),
    "integers": (
        weights(lambda kept: {n: w.to(torch.int8) for n, w in kept.items()}),
        r"as I8, which is quantised: give the model in bfloat16",
    ),
    "a shard that the index lacks": (
        first_shard_alone,
        rf"{INDEX} lacks .*: {SHARDS[1]} stands beside it and is not in the index",
    ),
}
FILES: dict[str, tuple[Damage, str]] = {
    "cut": (cut(SINGLE), rf"{SINGLE} is cut or damaged .*: download or save the model again"),
    "no byte": (text(SINGLE, ""), rf"{SINGLE} is cut or damaged"),
    "a web page": (text(SINGLE, "<html>404</html>" * 99), rf"{SINGLE} is cut or damaged"),
    "an LFS pointer": (text(SINGLE, LFS_POINTER), rf"{SINGLE} is a Git LFS pointer .* `git lfs pull`"),
    "a pipe": (both(removed(SINGLE), lambda d: os.mkfifo(d / SINGLE)), rf"{SINGLE} is not there"),
    "a link to what are no weights": (linked("/etc/passwd"), rf"{SINGLE} is cut or damaged"),
    "a link to nothing": (linked("/nowhere"), "has neither"),
    "no shard": (both(in_shards, removed(SHARDS[1])), rf"{SHARDS[1]} is not there"),
    "a cut shard": (both(in_shards, cut(SHARDS[1])), rf"{SHARDS[1]} is cut or damaged"),
    "an LFS pointer among shards": (
        both(in_shards, text(SHARDS[1], LFS_POINTER)),
        rf"{SHARDS[1]} is a Git LFS",
    ),
    "no index": (
        both(in_shards, removed(INDEX)),
        rf"neither {SINGLE} nor {INDEX}, only {SHARDS[0]}, {SHARDS[1]}",
    ),
    "a damaged index": (both(in_shards, text(INDEX, "{")), rf"{INDEX} is damaged"),
    "an index without names": (both(in_shards, text(INDEX, "{}")), rf"{INDEX} is damaged"),
    "an index that is wrong": (indexed_as(SHARDS[0]), rf"names {NORM}, which {SHARDS[0]} does not hold"),
    "an index of pickles": (
        both(indexed_as("p.bin"), pickled("p.bin")),
        rf"{NORM} in 'p\.bin'; only \*\.safetens",
    ),
    "an index that leaves the folder": (indexed_as("../../etc/passwd"), r"in '\.\./\.\./etc/passwd'; only"),
    "an index that leaves it for weights": (indexed_as(f"../whole/{SINGLE}"), "; only"),
    "an index with an absolute name": (indexed_as(str(NANO_DIRECTORY / SINGLE)), "; only"),
    "pickles alone": (
        both(removed(SINGLE), pickled("pytorch_model.bin")),
        r"no \*\.safetensors weights; pytorch_model\.bin are pickle files, which can run code",
    ),
    "pickles and other safetensors": (
        both(pickled("pytorch_model.bin"), lambda d: (d / SINGLE).rename(d / "other.safetensors")),
        rf"neither {SINGLE} nor {INDEX}, only other\.safetensors",
    ),
    "parts of a distributed checkpoint": (
        lambda d: shutil.copy(d / SINGLE, d / "shard-00000-model-00001-of-00001.safetensors"),
        "is a part of a distributed checkpoint: save the model again",
    ),
    "quantised": (
        settings(quantization_config=BITS),
        r"config\.json says .* \(quantization_config: bitsandbytes\)",
    ),
    "quantised inside": (
        settings(text_config__quantization_config=BITS),
        "quantization_config: bitsandbytes",
    ),
    "an adapter beside": (ADAPTER, r"an adapter \(adapter_config\.json\), not a model: merge it"),
    "an adapter with config.json": (
        both(ADAPTER, lambda d: (d / SINGLE).rename(d / "adapter_model.safetensors")),
        "an adapter .*, not a model: merge it",
    ),
    "an adapter alone": (both(emptied, ADAPTER), "an adapter .*, not a model: merge it"),
    "nothing": (emptied, r"is not a model directory \(it holds nothing\)"),
    "no configuration": (removed("config.json"), r"is not a model directory \(it holds chat_template"),
    "an empty configuration": (text("config.json", ""), r"config\.json is damaged"),
    "a configuration that is a list": (text("config.json", "[]"), r"config\.json is damaged"),
    "a configuration without end": (text("config.json", "[" * 10**5), r"config\.json is damaged"),
    "a configuration of words": (
        settings(text_config__hidden_size="wide"),
        r"config\.json cannot be used .*'wide'",
    ),
    "a configuration of no shape": (settings(text_config__hidden_size=-32), r"config\.json cannot be used"),
    "a configuration of other numbers": (settings(dtype="float17"), r"config\.json cannot be used .*float17"),
    "a configuration of many layers": (settings(text_config__num_hidden_layers=10**9), "more than 1000"),
    "an older configuration of many layers": (settings(num_hidden_layers=10**9), "more than 1000"),
    "an unknown type": (settings(model_type="qwen9_vl"), "is a 'qwen9_vl' model; backbones are"),
    "no image settings": (
        removed(*IMAGE_FILES),
        r"has no preprocessor_config\.json: copy it from the base model",
    ),
    "damaged image settings": (text(IMAGE_FILES[1], "{"), r"processor_config\.json is damaged"),
    "another model's image settings": (
        both(
            settings(IMAGE_FILES[0], patch_size=14), settings(IMAGE_FILES[1], image_processor__patch_size=14)
        ),
        r"its processor has patch_size 14, config\.json 16",
    ),
    "another model's placeholder": (settings(image_token_id=13), r"has image_token_id 12, config\.json 13"),
    "no tokenizer": (removed("tokenizer.json"), r"has no tokenizer\.json: copy it from the base model"),
    "a damaged tokenizer": (cut("tokenizer.json"), "the tokenizer of .* cannot be used"),
    "a tokenizer that is none": (text("tokenizer.json", '{"a": 1}'), "the tokenizer of .* cannot be used"),
    "damaged tokenizer settings": (text("tokenizer_config.json", "{"), r"tokenizer_config\.json is damaged"),
    "no chat template": (
        removed("chat_template.jinja"),
        "has no chat template .*: copy it from the base model",
    ),
    "a cut chat template": (
        text("chat_template.jinja", "{% for m in "),
        "the chat template of .* failed on the messages",
    ),
    "damaged generation settings": (
        text("generation_config.json", "{"),
        r"generation_config\.json is damaged",
    ),
    "an end of turn that is no id": (settings("generation_config.json", eos_token_id="x"), "not token ids"),
}


def refusal(of: Callable[[Path], Any], directory: Path) -> str:
    with pytest.raises(BackboneError) as raised:
        of(directory)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.fixture
def no_weight_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", read)
    monkeypatch.setattr(torch, "load", read)


@pytest.mark.usefixtures("no_weight_read")
@pytest.mark.parametrize(
    ("damage", "message"), [*PARAMETERS.values(), *FILES.values()], ids=[*PARAMETERS, *FILES]
)
def test_a_damaged_directory_is_one_line_before_a_weight_is_read(
    directory: Path, damage: Damage, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    damage(directory)
    refused = refusal(load_backbone, directory)
    assert str(directory) in refused and re.search(message, refused), refused
    assert "LOAD REPORT" not in capfd.readouterr().err
    # A dry run says what the run would.
    assert refusal(load_shape, directory) == refused
    # Engines with loaders of their own can read quantised weights.
    if "quantised (" not in refused:
        assert refusal(load_without_weights, directory) == refused


@pytest.mark.parametrize(
    "change",
    [
        in_shards,
        removed(IMAGE_FILES[0]),
        removed("generation_config.json"),
        weights(lambda kept: {n: w.bfloat16() for n, w in kept.items()}),
        weights(lambda kept: kept | {"lm_head.weight": kept[EMBEDDING].clone()}),
        both(lambda d: shutil.copy(d / SINGLE, d.parent / "blob"), linked("../blob")),
    ],
    ids=["shards", "one image file", "no generation settings", "bfloat16", "a head beside its tie", "a link"],
)
def test_what_is_whole_in_another_form_loads_as_it_did(whole: Path, directory: Path, change: Damage) -> None:
    change(directory)
    ours, expected = load_backbone(directory), load_backbone(whole)
    for name, weight in expected.model.state_dict().items():
        torch.testing.assert_close(ours.model.state_dict()[name], weight, rtol=2**-8, atol=0)
    assert load_without_weights(directory).eos_ids == ours.eos_ids


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused(directory: Path, number: float) -> None:
    weights(lambda kept: kept | {NORM: kept[NORM].index_fill(0, torch.tensor([5]), number)})(directory)
    assert f"holds NaN or infinity in {NORM}: its training diverged" in refusal(load_backbone, directory)


KERNEL = "somebody/kernel"
STRANGERS: dict[str, Damage] = {
    "attention": settings(attn_implementation=KERNEL, _attn_implementation=KERNEL),
    "attention by part": settings(_attn_implementation={"": KERNEL, "text_config": KERNEL}),
    "attention inside": both(
        settings(text_config___attn_implementation=KERNEL, vision_config__attn_implementation=KERNEL)
    ),
    "attention under another name": settings(attribute_map={"x": "_attn_implementation_internal"}, x=KERNEL),
    "experts": settings(_experts_implementation=KERNEL),
    "code": both(
        settings(
            auto_map={"AutoConfig": "own.C", "AutoModelForImageTextToText": "own.M", "AutoProcessor": "own.P"}
        ),
        settings("tokenizer_config.json", auto_map={"AutoTokenizer": ["own.T", None]}),
        text("own.py", "raise SystemExit"),
    ),
    "other weights": both(settings(transformers_weights="adapter_model.bin"), pickled("adapter_model.bin")),
    "another configuration": both(
        settings(configuration_files=["config.4.0.0.json"]), text("config.4.0.0.json", "{}")
    ),
    "fusions": settings(fusion_config={"patch_embeddings": True}),
    "a way to generate": both(
        lambda d: (d / "custom_generate").mkdir(), text("custom_generate/generate.py", "raise SystemExit")
    ),
}


@pytest.mark.parametrize("wish", STRANGERS.values(), ids=list(STRANGERS))
def test_a_strangers_configuration_makes_nothing_fetched_or_run(
    whole: Path, directory: Path, wish: Damage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetched(name: str, *_: Any, **__: Any) -> None:
        raise AssertionError(f"{name} was asked for")

    monkeypatch.setattr(transformers.modeling_utils, "lazy_import_flash_attention", fetched)
    monkeypatch.setattr(torch, "load", fetched)
    wish(directory)
    ours, expected = load_backbone(directory), load_backbone(whole)
    shape = load_shape(directory)
    for model in (ours.model, shape.model):
        assert model.config._attn_implementation == "sdpa"
        assert {
            part.config._attn_implementation for part in (model.model.visual, model.model.language_model)
        } == {"sdpa"}
    for name, weight in expected.model.state_dict().items():
        assert torch.equal(ours.model.state_dict()[name], weight)


@pytest.mark.parametrize("attention", [KERNEL, "flash_attention_2", "paged|sdpa", ""])
def test_a_runs_attention_cannot_name_a_kernel_of_the_hub(
    directory: Path, attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "is_flash_attn_2_available", lambda: False)
    with pytest.raises(BackboneError, match=f"attention '{attention.replace('|', '.')}'"):
        load_backbone(directory, attn_implementation=attention)


@pytest.mark.parametrize("dtype", ["load", "int8", "float17", torch.int64])
def test_a_runs_dtype_is_a_floating_point_one(directory: Path, dtype: Any) -> None:
    with pytest.raises(BackboneError, match="unknown dtype"):
        load_backbone(directory, dtype=dtype)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The snapshot `them/model` in a cache of the hub's, without a network."""
    snapshot = tmp_path / "cache" / "models--them--model" / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(snapshot.name)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return snapshot


def test_a_cached_hub_model_is_looked_through_as_a_folder_is(hub: Path, directory: Path) -> None:
    in_shards(directory)
    blobs = shutil.copytree(directory, hub.parents[1] / "blobs")
    hub.mkdir()
    for blob in blobs.iterdir():
        (hub / blob.name).symlink_to(Path("../../blobs") / blob.name)
    backbone = load_backbone("them/model")
    assert backbone.name == backbone.model.name_or_path == "them/model"
    assert load_without_weights("them/model").name == str(hub)
    (hub / SHARDS[1]).unlink()
    load_shape("them/model")
    with pytest.raises(BackboneError, match=f"{SHARDS[1]} is not there"):
        load_backbone("them/model")


@pytest.mark.usefixtures("hub")
def test_a_hub_model_that_cannot_be_had_is_one_line() -> None:
    with pytest.raises(
        BackboneError, match="^them/model is no directory here and cannot be had from the hub"
    ):
        load_backbone("them/model")


def test_a_file_is_no_directory(directory: Path) -> None:
    assert "config.json is not a model directory (it is a file)" in refusal(
        load_backbone, directory / "config.json"
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("visual"), rf"{SINGLE} lacks model\.visual"),
        (cut(SINGLE), "is cut or damaged"),
        (both(removed(SINGLE), pickled("pytorch_model.bin")), "are pickle files"),
        (ADAPTER, "holds an adapter"),
        (removed(*IMAGE_FILES), r"no preprocessor_config\.json"),
    ],
    ids=["no vision", "cut", "pickles", "adapter", "no image settings"],
)
def test_eval_refuses_a_damaged_nano_with_status_2_and_no_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Damage, message: str
) -> None:
    directory = shutil.copytree(NANO_DIRECTORY, tmp_path / "nano")
    damage(directory)
    out = tmp_path / "run"
    assert main(["eval", str(directory), "--num", "1", "--conditions", "text", "--out", str(out)]) == 2
    err = capsys.readouterr().err
    assert re.search(message, err) and err.count("\n") == 1 and err.startswith("pilotage: error: ")
    assert not (out / "eval").exists()
