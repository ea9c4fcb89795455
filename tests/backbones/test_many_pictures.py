"""Views with no picture, one and three, of different sizes, in one batch: all layers treat them as one at a time."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest
import torch

from pilotage.backbones.encode import encode_views, encode_with_response, images_of_rows
from pilotage.backbones.load import load_backbone
from pilotage.errors import PilotageError
from pilotage.records import Rollout, View
from pilotage.rollouts.endpoint_http import chat_messages
from pilotage.rollouts.serve_chat import MAX_IMAGES, RequestError, parse_chat
from pilotage.rollouts.transformers_engine import TransformersEngine
from pilotage.train.step.scoring import encode_rollouts, predicting_states, score_rows, take_rows
from pilotage.views.variants import cropped, varied
from stock_models import stock_directory
from tiny import enliven, generate, image_view, picture, png, text_view, tiny_backbone

NAMES = ["none", "one", "three"]


def three_pictures(cell: int) -> View:
    """Before the text, in the middle of it, and in a second message."""
    images = tuple(
        png(picture(*size, seed=seed, cell=cell)) for seed, size in enumerate([(2, 3), (1, 1), (4, 2)])
    )
    first: list[dict[str, Any]] = [
        {"type": "image"},
        {"type": "text", "text": "Size: 4."},
        {"type": "image"},
        {"type": "text", "text": "Plan a way over the ice."},
    ]
    messages = [
        {"role": "user", "content": first},
        {"role": "assistant", "content": "Goal: (1,3)."},
        {"role": "user", "content": [{"type": "text", "text": "Player:"}, {"type": "image"}]},
    ]
    return View(name="many", messages=messages, images=images, prefill="Size:")


@pytest.fixture(scope="module", params=["nano", "qwen3_vl", "qwen2_5_vl"])
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    if request.param == "nano":
        return tiny_backbone()
    torch.manual_seed(0)
    loaded = load_backbone(stock_directory(tmp_path_factory.mktemp(request.param), request.param))
    enliven(loaded.model)
    return loaded


@pytest.fixture
def views(backbone: Any) -> list[View]:
    cell = 2 * backbone.processor.image_processor.patch_size
    return [
        text_view("Size: 4. Player: (2,0)."),
        image_view(png(picture(3, cell=cell))),
        three_pictures(cell),
    ]


def test_positions_are_the_models_own(backbone: Any, views: list[View]) -> None:
    inputs: dict[str, Any] = {**encode_views(backbone, views)}
    assert inputs["image_grid_thw"].shape == (4, 3)
    expected, _ = backbone.model.model.get_rope_index(
        inputs["input_ids"],
        mm_token_type_ids=(inputs["input_ids"] == backbone.image_token_id).int(),
        image_grid_thw=inputs["image_grid_thw"],
        attention_mask=inputs["attention_mask"],
    )
    assert torch.equal(inputs["position_ids"], expected)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rollouts_and_their_scores_are_those_of_one_at_a_time(
    backbone: Any, views: list[View], temperature: float
) -> None:
    engine = TransformersEngine(backbone)
    settings: dict[str, Any] = {"max_new_tokens": 20, "temperature": temperature, "seed": 3}
    together = generate(engine, views, example_ids=NAMES, **settings)
    for view, name, rollout in zip(views, NAMES, together, strict=True):
        (alone,) = generate(engine, [view], example_ids=[name], **settings)
        assert alone.token_ids == rollout.token_ids
        assert alone.logprobs == pytest.approx(rollout.logprobs, abs=1e-4)
    encoded = encode_rollouts(backbone, views, together, max_prompt_tokens=None, pad_to_multiple=16)
    for batch_size in (1, 2, 3):
        for share_prefix in (False, True):
            states = score_rows(
                backbone.model, encoded, batch_size=batch_size, pad_to_multiple=16, share_prefix=share_prefix
            )
            for hidden_TH, rollout in zip(states, together, strict=True):
                logp_TV = backbone.model.get_output_embeddings()(hidden_TH).log_softmax(-1)
                got = logp_TV.gather(1, torch.tensor(rollout.token_ids)[:, None])[:, 0].tolist()
                assert got == pytest.approx(list(rollout.logprobs), abs=1e-4)


def test_each_picture_is_heeded_in_its_place(backbone: Any, views: list[View]) -> None:
    def logits(view: View) -> torch.Tensor:
        with torch.no_grad():
            return backbone.model(**encode_views(backbone, [view], pad_to_multiple=1)).logits[0, -1]

    many = views[2]
    own = logits(many)
    first, second, third = many.images
    cell = 2 * backbone.processor.image_processor.patch_size
    for changed in (
        (png(picture(2, 3, seed=9, cell=cell)), second, third),
        (first, png(picture(1, 1, seed=9, cell=cell)), third),
        (first, second, png(picture(4, 2, seed=9, cell=cell))),
        (third, second, first),
    ):
        assert (logits(replace(many, images=changed)) - own).abs().max() > 1e-3


def test_gradients_are_the_sum_of_those_of_each_row(backbone: Any, views: list[View]) -> None:
    rollouts = [
        Rollout(example_id=name, token_ids=tuple(range(40, 40 + n)), text="", finished=True)
        for name, n in zip(NAMES, (3, 7, 5), strict=True)
    ]
    encoded = encode_rollouts(backbone, views, rollouts, max_prompt_tokens=None, pad_to_multiple=16)
    parameters = [p for p in backbone.model.parameters() if p.requires_grad]

    def gradients(batches: list[list[int]]) -> list[torch.Tensor]:
        backbone.model.zero_grad(set_to_none=True)
        for rows in batches:
            batch = take_rows(encoded, rows, pad_to_multiple=16)
            states_MH = predicting_states(backbone.model, backbone.model, batch)
            backbone.model.get_output_embeddings()(states_MH).log_softmax(-1)[:, 50].sum().backward()
        return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]

    together, apart = gradients([[2, 0, 1]]), gradients([[0], [1], [2]])
    assert max(float(grad.abs().max()) for grad in apart) > 1e-2
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-4)


def test_pictures_travel_with_their_rows(backbone: Any, views: list[View]) -> None:
    order = [views[2], views[0], views[1]]
    encoded = encode_with_response(backbone, order, [[40], [41], [42]])
    assert encoded["image_rows"]["image_grid_thw"] == [3, 0, 1]
    (alone,) = images_of_rows(encode_with_response(backbone, [views[1]], [[42]]))
    taken = take_rows(encoded, [2, 1], pad_to_multiple=16)
    first, second = images_of_rows(taken)
    assert torch.equal(first, alone) and len(second) == 0
    assert "pixel_values" not in take_rows(encoded, [1], pad_to_multiple=16)["inputs"]
    assert [len(patches) for patches in images_of_rows(take_rows(encoded, [1, 1], pad_to_multiple=16))] == [
        0,
        0,
    ]


def test_a_picture_too_few_or_too_many_is_refused(backbone: Any, views: list[View]) -> None:
    many = views[2]
    for images in (many.images[:2], (*many.images, many.images[0])):
        with pytest.raises(PilotageError, match="3 image or video places but the view carries [24]"):
            encode_views(backbone, [replace(many, images=images)])


def test_variants_treat_all_pictures_alike() -> None:
    many = three_pictures(32)
    blind = varied(many, images="none")
    assert not blind.images and "image'" not in str(blind.messages)
    parts = varied(many, images="crop", seed=3).images
    assert parts == tuple(cropped(image, share=0.5, seed=3) for image in many.images)
    assert varied(many, images="other", other=many.images[::-1]).images == many.images[::-1]
    with pytest.raises(PilotageError, match="needs 3 other picture"):
        varied(many, images="other", other=many.images[:1])


def test_a_chat_request_carries_all_pictures_in_their_places_and_back() -> None:
    many = three_pictures(32)
    messages = chat_messages(many)
    urls = [
        part["image_url"]["url"]
        for message in messages
        if not isinstance(message["content"], str)
        for part in message["content"]
        if part["type"] == "image_url"
    ]
    assert [base64.b64decode(url.partition(",")[2]) for url in urls] == list(many.images)
    body = {"model": "m", "messages": messages, "continue_final_message": True}
    back = parse_chat(body, model="m", max_new_tokens=10).view
    assert (back.images, back.messages, back.prefill) == (many.images, many.messages, many.prefill)
    one = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": urls[1]}}]}
    with pytest.raises(RequestError, match=f"takes {MAX_IMAGES} in a request"):
        parse_chat({"model": "m", "messages": [one] * (MAX_IMAGES + 1)}, model="m", max_new_tokens=10)
