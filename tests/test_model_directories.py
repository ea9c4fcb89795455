"""Model directories that are damaged, foreign or hostile: one line that names file and remedy, and nothing runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pilotage.backbones.load import BackboneError, load_backbone, load_shape, load_without_weights
from pilotage.backbones.nano import build_nano, save_backbone
from pilotage.cli.main import main
from tiny import TINY, tiny_tokenizer

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")

Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole")
    save_backbone(*build_nano(TINY, tiny_tokenizer(), seed=3), path)
    return path


@pytest.fixture
def directory(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def tensors(change: Callable[[dict[str, torch.Tensor]], None]) -> Change:
    def applied(path: Path) -> None:
        weights = load_file(path / WEIGHTS)
        change(weights)
        save_file(weights, path / WEIGHTS, {"format": "pt"})

    return applied


def without(part: str) -> Change:
    def drop(weights: dict[str, torch.Tensor]) -> None:
        for name in [name for name in weights if part in name]:
            del weights[name]

    return tensors(drop)


@tensors
def other_prefixes(weights: dict[str, torch.Tensor]) -> None:
    for name in list(weights):
        weights[f"blip.{name}"] = weights.pop(name)


@tensors
def one_too_small(weights: dict[str, torch.Tensor]) -> None:
    weights["model.language_model.norm.weight"] = torch.ones(3)


@tensors
def one_too_many(weights: dict[str, torch.Tensor]) -> None:
    weights["model.language_model.layers.7.mlp.up_proj.weight"] = torch.ones(3)


def in_json(name: str, change: Callable[[dict[str, Any]], Any]) -> Change:
    def applied(path: Path) -> None:
        data = json.loads((path / name).read_text())
        change(data)
        (path / name).write_text(json.dumps(data))

    return applied


def tied_in_its_text_alone(config: dict[str, Any]) -> None:
    config["text_config"]["tie_word_embeddings"] = config.pop("tie_word_embeddings")


def remove(*names: str) -> Change:
    def applied(path: Path) -> None:
        for name in names:
            (path / name).unlink(missing_ok=True)

    return applied


def write(name: str, content: bytes) -> Change:
    def applied(path: Path) -> None:
        (path / name).write_bytes(content)

    return applied


def rename(name: str, new: str) -> Change:
    def applied(path: Path) -> None:
        (path / name).rename(path / new)

    return applied


def each(*changes: Change) -> Change:
    def applied(path: Path) -> None:
        for change in changes:
            change(path)

    return applied


def sharded(change: Callable[[Path, dict[str, str]], None] = lambda path, shard_of: None) -> Change:
    """Two shards with an index, and then something done to them."""

    def applied(path: Path) -> None:
        weights = load_file(path / WEIGHTS)
        names = sorted(weights)
        shard_of = {name: SHARDS[place % 2] for place, name in enumerate(names)}
        for shard in SHARDS:
            save_file({n: weights[n] for n in names if shard_of[n] == shard}, path / shard, {"format": "pt"})
        (path / WEIGHTS).unlink()
        change(path, shard_of)
        (path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": shard_of}))

    return applied


def cut(name: str) -> Change:
    def applied(path: Path) -> None:
        content = (path / name).read_bytes()
        (path / name).write_bytes(content[: len(content) // 2])

    return applied


def first(shard_of: dict[str, str]) -> str:
    return next(iter(shard_of))


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1234\n"
EVIL = "kernels-community/evil"

CASES: dict[str, tuple[Change, str]] = {
    "without its vision weights": (
        without(".visual."),
        r"lacks the parameter model\.visual\.\S+ and \d+ more, which would be random",
    ),
    "a layer missing": (without("layers.1."), r"lacks the parameter model\.language_model\.layers\.1\."),
    "one parameter missing": (
        without("language_model.norm"),
        r"model\.language_model\.norm\.weight, which would",
    ),
    "another family's prefixes": (other_prefixes, r"it has blip\.\S+ and \d+ others in their place"),
    "the tie flag in text_config alone": (
        in_json("config.json", tied_in_its_text_alone),
        r'lacks the parameter lm_head\.weight.*"tie_word_embeddings": true at its top',
    ),
    "a parameter of another size": (
        one_too_small,
        r"model\.language_model\.norm\.weight has the shape \(3,\), and config\.json wants \(32,\)",
    ),
    "a parameter too many": (
        one_too_many,
        r"has the parameter model\.language_model\.layers\.7\.\S+ that its",
    ),
    "no preprocessor": (
        remove("preprocessor_config.json", "processor_config.json"),
        "preprocessor_config.json",
    ),
    "no tokenizer": (remove("tokenizer.json", "tokenizer_config.json"), "its tokenizer and"),
    "a damaged tokenizer": (write("tokenizer.json", b'{"model": '), "its tokenizer and"),
    "no chat template": (remove("chat_template.jinja", "chat_template.json"), "has no chat template"),
    "damaged generation settings": (write("generation_config.json", b"[1"), "generation_config.json"),
    "weights cut in the middle": (cut(WEIGHTS), rf"{WEIGHTS} is damaged or cut short \(\d+ bytes"),
    "empty weights": (write(WEIGHTS, b""), rf"{WEIGHTS} is damaged or cut short \(0 bytes"),
    "weights that are a pointer": (write(WEIGHTS, POINTER), rf"{WEIGHTS} is a Git LFS pointer.*git lfs pull"),
    "a configuration that is a pointer": (
        write("config.json", POINTER),
        r"config\.json is a Git LFS pointer",
    ),
    "a configuration that is no JSON": (
        write("config.json", b"{"),
        r"config\.json is damaged \(it is not JSON\)",
    ),
    "a configuration that is a list": (
        write("config.json", b"[]"),
        r"config\.json is damaged .*no JSON object",
    ),
    "a configuration without a type": (write("config.json", b"{}"), r"config\.json names no model_type"),
    "an unknown type": (
        in_json("config.json", lambda config: config.update(model_type="brand_new")),
        "is a 'brand_new' model; backbones are",
    ),
    "an impossible configuration": (
        in_json("config.json", lambda config: config["text_config"].update(num_hidden_layers="many")),
        "cannot be loaded",
    ),
    "a shard missing": (
        sharded(lambda path, shard_of: (path / SHARDS[1]).unlink()),
        rf"{SHARDS[1]} is not there, and {INDEX} names it",
    ),
    "a shard cut": (
        sharded(lambda path, shard_of: cut(SHARDS[0])(path)),
        rf"{SHARDS[0]} is damaged or cut short",
    ),
    "shards without an index": (
        each(sharded(), remove(INDEX)),
        rf"but {SHARDS[0]}, {SHARDS[1]} without an index",
    ),
    "a parameter that the index leaves out": (
        sharded(lambda path, shard_of: shard_of.__delitem__(first(shard_of))),
        rf"{INDEX} leaves out the parameter",
    ),
    "a parameter that no shard has": (
        sharded(lambda path, shard_of: shard_of.update(ghost=SHARDS[0])),
        r"says that ghost is in \S+, and no shard has it",
    ),
    "an index that names a pickle": (
        sharded(lambda path, shard_of: shard_of.update({first(shard_of): "p.bin"})),
        r"is in 'p\.bin': weights are read from \*\.safetensors files of the folder itself",
    ),
    "an index that leads out": (
        sharded(lambda path, shard_of: shard_of.update({first(shard_of): "../../etc/passwd"})),
        r"is in '\.\./\.\./etc/passwd'",
    ),
    "an index that leads out to safetensors": (
        sharded(lambda path, shard_of: shard_of.update({first(shard_of): "../x.safetensors"})),
        r"is in '\.\./x\.safetensors'",
    ),
    "a damaged index": (each(sharded(), cut(INDEX)), rf"{INDEX} is damaged"),
    "an index of nothing": (write(INDEX, b"{}"), r"it has no weight_map"),
    "a pickle alone": (
        rename(WEIGHTS, "pytorch_model.bin"),
        r"no \*\.safetensors weights; pytorch_model\.bin are pickle files, which can run code",
    ),
    "weights of another name": (
        in_json("config.json", lambda config: config.update(transformers_weights="p.bin")),
        r"names other weights, 'p\.bin'",
    ),
    "an adapter beside a configuration": (
        write("adapter_config.json", b'{"base_model_name_or_path": "evil/base", "peft_type": "LORA"}'),
        r"is an adapter \(adapter_config\.json\), not a model: merge it",
    ),
    "quantised without the library": (
        in_json("config.json", lambda c: c.update(quantization_config={"quant_method": "gptq", "bits": 4})),
        "cannot be loaded: its weights",
    ),
    "attention from the hub": (
        in_json("config.json", lambda config: config.update(_attn_implementation=EVIL)),
        rf"_attn_implementation: attention '{EVIL}' is none of sdpa",
    ),
    "attention from the hub in a part": (
        in_json("config.json", lambda config: config["vision_config"].update(attn_implementation=EVIL)),
        rf"vision_config\.attn_implementation: attention '{EVIL}' is none of sdpa",
    ),
    "attention from the hub by part": (
        in_json("config.json", lambda config: config.update(attn_implementation={"text_config": EVIL})),
        rf"attention '{EVIL}' is none of sdpa",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_directory_that_cannot_be_used_is_one_error(directory: Path, case: str, monkeypatch: Any) -> None:
    change, told = CASES[case]
    change(directory)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("something was unpickled"))
    with pytest.raises(BackboneError, match=told) as caught:
        load_backbone(directory)
    assert str(directory) in str(caught.value)


@pytest.mark.parametrize(
    "change", [sharded(), in_json("config.json", lambda config: config.update(_attn_implementation="eager"))]
)
def test_what_is_whole_loads(whole: Path, directory: Path, change: Change) -> None:
    expected = load_backbone(whole).model.state_dict()
    change(directory)
    loaded = load_backbone(directory).model.state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], value) for name, value in expected.items())


def test_a_head_that_is_not_tied_is_read(directory: Path) -> None:
    head = torch.full((len(tiny_tokenizer()), TINY.hidden), 0.5)
    in_json("config.json", lambda config: config.update(tie_word_embeddings=False))(directory)
    tensors(lambda weights: weights.update({"lm_head.weight": head}))(directory)
    assert torch.equal(load_backbone(directory).model.lm_head.weight, head)


def test_shapes_and_small_files_need_no_weights(directory: Path) -> None:
    (directory / WEIGHTS).unlink()
    assert next(load_shape(directory).model.parameters()).is_meta
    assert load_without_weights(directory).name == str(directory)
    with pytest.raises(BackboneError, match="no \\*.safetensors weights"):
        load_backbone(directory)


def test_an_attention_that_is_no_library_s_is_refused(whole: Path) -> None:
    with pytest.raises(BackboneError, match=f"attention '{EVIL}' is none of sdpa, eager"):
        load_backbone(whole, attn_implementation=EVIL)


def test_an_adapter_a_file_and_an_empty_folder_say_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="is not a model directory .it holds nothing"):
        load_backbone(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(BackboneError, match="is an adapter"):
        load_backbone(tmp_path)
    with pytest.raises(BackboneError, match="is not a model directory .it is a file"):
        load_backbone(tmp_path / "adapter_config.json")


def test_a_hub_id_that_cannot_be_had_is_one_line() -> None:
    with pytest.raises(
        BackboneError, match="nobody/nothing is not a directory here, and the hub does not give it"
    ):
        load_backbone("nobody/nothing")


@pytest.mark.parametrize(
    "case", ["without its vision weights", "a shard missing", "an adapter beside a configuration"]
)
def test_the_command_line_ends_with_one_line_and_no_row(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    CASES[case][0](directory)
    out = tmp_path / "out"
    assert main(["eval", str(directory), "--recipe", "nano", "--num", "1", "--out", str(out)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("pilotage: error: ") and err.count("\n") == 1
    assert not list(out.rglob("*.jsonl"))
