"""What prompts begin with is read once, and nothing else changes."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from pilotage.backbones import prefix
from pilotage.backbones.load import LoraSettings, load_backbone, with_lora
from pilotage.backbones.prefix import first_image_column, shared_prefix
from pilotage.records import Rollout, View
from pilotage.rollouts.transformers_engine import TransformersEngine
from pilotage.train.distill_setup import checkpoint_activations
from pilotage.train.step.scoring import can_share_prefix, encode_rollouts, predicting_states
from stock_models import stock_directory
from tiny import enliven, generate, image_view, picture, png, text_view, tiny_backbone


@pytest.fixture(scope="module", params=["nano", "qwen3_vl", "qwen2_5_vl"])
def backbone(request, tmp_path_factory):
    if request.param == "nano":
        return tiny_backbone()
    torch.manual_seed(0)
    loaded = load_backbone(stock_directory(tmp_path_factory.mktemp(request.param), request.param))
    enliven(loaded.model)
    return loaded


def two_tasks(*, images: bool) -> list[View]:
    """Rows of two beginnings, in turn, of different lengths."""
    rules = ("Plan a way over the ice. Size: 4.", "Plan a way through the maze. Size: 4. Player: (2,0).")
    if images:
        shown: list[Any] = [{"type": "text", "text": ""}, {"type": "image"}]
        views = [image_view(png(picture(2 + seed % 3, seed=seed)), "") for seed in range(6)]
        return [
            View(
                name="student",
                messages=[{"role": "user", "content": [shown[0] | {"text": rules[seed % 2]}, shown[1]]}],
                images=view.images,
            )
            for seed, view in enumerate(views)
        ]
    return [text_view(f"{rules[row % 2]} Route: {'(1,0) ' * row}") for row in range(6)]


def responses() -> list[Rollout]:
    return [
        Rollout(example_id=str(row), token_ids=tuple(range(20, 23 + 2 * row)), text="", finished=True)
        for row in range(6)
    ]


# -- which beginning --------------------------------------------------------------------------------------------------


def test_the_beginning_that_saves_most_is_shared():
    ids = torch.tensor(
        [
            [7, 7, 7, 7, 1, 1],
            [5, 6, 7, 8, 1, 2],
            [7, 7, 7, 7, 1, 3],
            [5, 6, 9, 9, 1, 4],
            [7, 7, 7, 7, 2, 5],
        ]
    )
    found = shared_prefix(ids, limit=5)
    assert found is not None
    # 4 columns: two of three rows with sevens, 8 places saved. 2 columns: those and one more row, 6 places.
    assert found.length == 4
    assert found.rows_K.tolist() == [1, 3, 0]
    assert found.prefix_of_B.tolist() == [2, 0, 2, 1, 2]
    # Of two columns, three of five rows are spared: 6 places.
    assert (found := shared_prefix(ids, limit=2)) is not None
    assert (found.length, found.rows_K.tolist(), found.prefix_of_B.tolist()) == (2, [1, 0], [1, 0, 1, 0, 1])


@pytest.mark.parametrize(
    ("rows", "limit"),
    [
        pytest.param([[1, 2, 3, 4]], 3, id="one row"),
        pytest.param([[1, 2, 3, 4], [2, 2, 3, 4]], 3, id="nothing in common"),
        pytest.param([[1, 2, 3, 4], [1, 2, 3, 4]], 0, id="an image comes first"),
        pytest.param([[1, *range(15)], [1, *range(15, 30)]], 9, id="too little in common"),
    ],
)
def test_no_beginning_is_shared_where_it_saves_nothing(rows, limit):
    assert shared_prefix(torch.tensor(rows), limit=limit) is None


def test_the_first_image_of_any_row_counts():
    ids = torch.tensor([[1, 2, 3, 9], [1, 2, 9, 9], [1, 2, 3, 4]])
    assert first_image_column(ids, 9) == 2
    assert first_image_column(ids, 8) == 4


# -- scoring ----------------------------------------------------------------------------------------------------------


def states_and_gradients(
    backbone, views, *, share_prefix: bool
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    batch = encode_rollouts(backbone, views, responses(), max_prompt_tokens=None, pad_to_multiple=16)
    backbone.model.zero_grad()
    hidden_MH = predicting_states(backbone.model, backbone.model, batch, share_prefix=share_prefix)
    weights = torch.randn(hidden_MH.shape, generator=torch.Generator().manual_seed(0), dtype=hidden_MH.dtype)
    (hidden_MH * weights).sum().backward()
    named = backbone.model.named_parameters()
    return hidden_MH.detach(), {name: p.grad.clone() for name, p in named if p.grad is not None}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("images", [True, False], ids=["pictures", "text"])
@pytest.mark.parametrize("lora", [False, True], ids=["whole", "adapter"])
def test_states_and_gradients_are_those_of_whole_rows(backbone, images, attention, lora, monkeypatch):
    if lora:
        torch.manual_seed(0)
        # A copy: an adapter would stay in the model that the other tests use.
        own = replace(backbone, model=copy.deepcopy(backbone.model))
        backbone = with_lora(own, LoraSettings(rank=2, alpha=4.0))
    backbone.model.double()
    for config in (backbone.model.config, backbone.model.config.get_text_config()):
        monkeypatch.setattr(config, "_attn_implementation", attention)
    calls: list[tuple[int, ...]] = []
    hook = backbone.model.get_input_embeddings().register_forward_pre_hook(
        lambda _, args: calls.append(tuple(args[0].shape))
    )
    views = two_tasks(images=images)
    whole_MH, whole = states_and_gradients(backbone, views, share_prefix=False)
    del calls[:]
    shared_MH, shared = states_and_gradients(backbone, views, share_prefix=True)
    hook.remove()
    backbone.model.float()
    assert len(calls) == 2 and calls[0][0] == 2 and calls[0][1] >= 5, "two beginnings, then the rest"
    torch.testing.assert_close(shared_MH, whole_MH, rtol=1e-6, atol=1e-6)
    assert shared.keys() == whole.keys() and len(whole) > 10
    for name, gradient in whole.items():
        scale = float(gradient.abs().max())
        assert float((shared[name] - gradient).abs().max()) <= 1e-6 * max(scale, 1.0), name


def test_a_cache_carries_no_gradients_past_checkpoints_or_dropout():
    backbone = tiny_backbone()
    assert can_share_prefix(backbone.model.train())
    checkpoint_activations(backbone.model)
    assert not can_share_prefix(backbone.model)
    assert can_share_prefix(backbone.model.eval())
    adapter = with_lora(tiny_backbone(), LoraSettings(rank=2, alpha=4.0, dropout=0.1)).model
    assert not can_share_prefix(adapter.train())
    assert can_share_prefix(adapter.eval())


# -- rollouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_return", [1, 3])
@pytest.mark.parametrize("images", [True, False], ids=["pictures", "text"])
def test_rollouts_are_those_of_whole_prompts(backbone, images, num_return, monkeypatch):
    settings: dict[str, Any] = {
        "example_ids": list("abcdef"),
        "max_new_tokens": 40,
        "temperature": 1.0,
        "seed": 2,
        "num_return": num_return,
    }
    engine, views = TransformersEngine(backbone), two_tasks(images=images)
    shared = generate(engine, views, **settings)
    num_forwards = engine.num_forwards
    monkeypatch.setattr(prefix, "WORTH_IT", 2)
    whole = generate(engine, views, **settings)
    assert num_forwards == engine.num_forwards + 1, "the beginnings are a forward of their own"
    assert [rollout.token_ids for rollout in shared] == [rollout.token_ids for rollout in whole]
    for one, other in zip(shared, whole, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
