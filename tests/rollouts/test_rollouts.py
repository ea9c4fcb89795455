"""Rollout engines."""

from __future__ import annotations

import copy
import math
import os
import sys
from collections import Counter
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from pilotage.backbones.encode import PromptTooLongError, encode_views, encode_with_response
from pilotage.backbones.load import LoraSettings, load_backbone, with_lora
from pilotage.backbones.weights import whole_parameters
from pilotage.distill.align import predicting_positions, response_tokens, split_rows
from pilotage.errors import PilotageError
from pilotage.records import Rollout
from pilotage.rollouts import Decoding, ReplayEngine, samples_of
from pilotage.rollouts.chooser import Chooser
from pilotage.rollouts.endpoint import EndpointConfig, EndpointEngine
from pilotage.rollouts.engine import sampling_noise
from pilotage.rollouts.engines import InVllm
from pilotage.rollouts.transformers_engine import TransformersEngine, _rows_to_keep
from pilotage.rollouts.vllm_engine import VllmEngine
from stock_models import stock_directory
from tiny import enliven, generate, image_view, mixed_views, picture, png, text_view, tiny_backbone

IDS = ["a", "b", "c", "d", "e"]


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone()


@pytest.fixture(scope="module", params=["nano", "qwen3_vl", "qwen2_5_vl"])
def any_backbone(request, tmp_path_factory):
    if request.param == "nano":
        return tiny_backbone()
    torch.manual_seed(0)
    loaded = load_backbone(stock_directory(tmp_path_factory.mktemp(request.param), request.param))
    enliven(loaded.model)
    return loaded


def test_the_models_under_test_heed_context_and_picture(any_backbone):
    """Else the agreements below would mean little."""
    views = [image_view(png(picture(3, seed=seed))) for seed in range(6)]
    settings: dict[str, Any] = {"example_ids": list("abcdef"), "max_new_tokens": 30}
    rollouts = generate(TransformersEngine(any_backbone), views, **settings)
    assert len({rollout.token_ids for rollout in rollouts}) >= 4
    assert len({token for rollout in rollouts for token in rollout.token_ids}) >= 12
    sampled = generate(TransformersEngine(any_backbone), views, temperature=1.0, **settings)
    logprobs = [logprob for rollout in sampled for logprob in rollout.logprobs]
    assert -5.5 < sum(logprobs) / len(logprobs) < -0.5


def rescored(backbone, views, rollouts, temperature: float = 1.0) -> list[torch.Tensor]:
    """The log-probs of the rollouts' ids in one teacher-forced forward."""
    encoded = encode_with_response(backbone, views, [rollout.token_ids for rollout in rollouts])
    with torch.no_grad():
        logits = backbone.model(**encoded["inputs"]).logits / temperature
    rows, columns = predicting_positions(encoded["response_mask"])
    tokens = response_tokens(encoded["inputs"]["input_ids"], encoded["response_mask"])
    logprobs = logits[rows, columns].log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    return split_rows(logprobs, encoded["response_lengths"])


def assert_logprobs_agree(backbone, views, rollouts, temperature: float = 1.0) -> None:
    for rollout, expected in zip(rollouts, rescored(backbone, views, rollouts, temperature), strict=True):
        torch.testing.assert_close(torch.tensor(rollout.logprobs), expected, rtol=0, atol=1e-4)


def test_greedy_agrees_token_by_token_with_generate(any_backbone):
    """With and without pictures, with padding, past the point where the cache has to grow."""
    views = mixed_views()
    rollouts = generate(TransformersEngine(any_backbone), views, example_ids=IDS, max_new_tokens=80)
    for text_only in (True, False):
        indices = [index for index, view in enumerate(views) if (not view.images) == text_only]
        inputs: dict[str, Any] = {**encode_views(any_backbone, [views[index] for index in indices])}
        ids, mask = inputs.pop("input_ids"), inputs.pop("attention_mask")
        inputs.pop("position_ids")  # generate makes its own, from the token types
        expected = any_backbone.model.generate(
            input_ids=ids,
            attention_mask=mask,
            mm_token_type_ids=(ids == any_backbone.image_token_id).int(),
            do_sample=False,
            max_new_tokens=80,
            suppress_tokens=list(any_backbone.vision_token_ids),
            pad_token_id=any_backbone.pad_id,
            **inputs,
        )[:, ids.shape[1] :]
        for index, row in zip(indices, expected.tolist(), strict=True):
            assert list(rollouts[index].token_ids) == row[: len(rollouts[index].token_ids)]
            assert rollouts[index].finished or len(rollouts[index].token_ids) == 80


@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.7])
def test_scoring_the_same_ids_gives_the_engines_own_logprobs(any_backbone, temperature):
    views = mixed_views()
    rollouts = generate(
        TransformersEngine(any_backbone, batch_size=2),
        views,
        example_ids=IDS,
        max_new_tokens=45,
        temperature=temperature,
        seed=4,
    )
    assert_logprobs_agree(any_backbone, views, rollouts, temperature or 1.0)


def test_rollouts_do_not_depend_on_padding_order_or_company(backbone):
    views = mixed_views()
    settings = {"max_new_tokens": 40, "temperature": 1.0, "seed": 2}
    together = generate(TransformersEngine(backbone), views, example_ids=IDS, **settings)
    padded = generate(TransformersEngine(backbone, pad_to_multiple=64), views, example_ids=IDS, **settings)
    backwards = generate(
        TransformersEngine(backbone, batch_size=3), views[::-1], example_ids=IDS[::-1], **settings
    )[::-1]
    alone = [
        generate(TransformersEngine(backbone), [view], example_ids=[name], **settings)[0]
        for view, name in zip(views, IDS, strict=True)
    ]
    for others in (padded, backwards, alone):
        for one, other in zip(together, others, strict=True):
            assert one.token_ids == other.token_ids and one.example_id == other.example_id
            torch.testing.assert_close(
                torch.tensor(one.logprobs), torch.tensor(other.logprobs), rtol=0, atol=1e-4
            )


def test_the_seed_decides(backbone):
    engine = TransformersEngine(backbone)
    settings = {"example_ids": IDS, "max_new_tokens": 12, "temperature": 1.0}
    first = generate(engine, mixed_views(), seed=1, **settings)
    torch.rand(7)
    assert generate(engine, mixed_views(), seed=1, **settings) == first
    assert generate(engine, mixed_views(), seed=2, **settings) != first


def eos_prone(backbone_seed: int = 0):
    """A backbone that ends its turn with probability about 1 / 8 at each step."""
    backbone = tiny_backbone(backbone_seed, head=1.0)
    lm_head, eos = backbone.model.lm_head, backbone.tokenizer.eos_token_id

    def favour_eos(module, args, logits):
        favoured = logits.clone()
        favoured[..., eos] += math.log(len(backbone.tokenizer) / 8)
        return favoured

    lm_head.register_forward_hook(favour_eos)
    return backbone


def test_finished_rows_leave_the_batch_and_the_others_are_not_disturbed():
    backbone = eos_prone()
    views = [text_view(f"Size: {index % 9}." + " (1,1)" * (index % 4)) for index in range(40)]
    names = [f"x{index}" for index in range(40)]
    engine = TransformersEngine(backbone, batch_size=40)
    rollouts = generate(engine, views, example_ids=names, max_new_tokens=30, temperature=1.0)
    assert [rollout.example_id for rollout in rollouts] == names
    lengths = Counter(len(rollout.token_ids) for rollout in rollouts)
    assert len(lengths) > 8  # they ended at many different steps
    for rollout in rollouts:
        ended = rollout.token_ids[-1] in backbone.eos_ids
        assert rollout.finished == ended and (ended or len(rollout.token_ids) == 30)
        assert not set(rollout.token_ids[:-1]) & set(backbone.eos_ids)
        assert len(rollout.logprobs) == len(rollout.token_ids)
    assert_logprobs_agree(backbone, views, rollouts)


def test_batches_shrink_to_multiples_of_eight():
    assert _rows_to_keep([False] * 10) is None
    assert _rows_to_keep([True] * 2 + [False] * 14) is None  # 14 rounds up to 16
    assert _rows_to_keep([True] * 7 + [False] * 9) is None
    assert _rows_to_keep([True] * 9 + [False] * 7) == list(range(9, 16))
    assert _rows_to_keep([False, True] * 10) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 18]


def test_several_rollouts_of_a_view_share_its_prompt_and_differ():
    backbone = eos_prone()
    views = mixed_views()
    rollouts = generate(
        TransformersEngine(backbone, batch_size=6),
        views,
        example_ids=IDS,
        max_new_tokens=10,
        temperature=1.0,
        num_return=3,
    )
    assert [rollout.example_id for rollout in rollouts] == [name for name in IDS for _ in range(3)]
    assert len({rollout.token_ids for rollout in rollouts}) == 15
    assert_logprobs_agree(backbone, [view for view in views for _ in range(3)], rollouts)


def test_vision_tokens_are_never_sampled_and_their_attempts_are_counted():
    backbone = tiny_backbone(head=1.0)
    image = backbone.image_token_id
    boost = math.log(len(backbone.tokenizer))  # about half of the probability

    def favour_image(module, args, logits):
        favoured = logits.clone()
        favoured[..., image] += boost
        return favoured

    backbone.model.lm_head.register_forward_hook(favour_image)
    engine = TransformersEngine(backbone)
    views = [text_view("Go."), image_view(png(picture(2)))]
    greedy = generate(engine, views, example_ids=["a", "b"], max_new_tokens=20)
    assert all(not set(rollout.token_ids) & set(backbone.vision_token_ids) for rollout in greedy)
    assert [rollout.meta["num_vision_attempts"] for rollout in greedy] == [20, 20]
    sampled = generate(engine, views, example_ids=["a", "b"], max_new_tokens=200, temperature=1.0)
    assert all(not set(rollout.token_ids) & set(backbone.vision_token_ids) for rollout in sampled)
    for rollout in sampled:
        assert 0.4 < rollout.meta["vision_mass"] < 0.6
        assert 0.35 < rollout.meta["num_vision_attempts"] / len(rollout.token_ids) < 0.65
    assert_logprobs_agree(backbone, views, sampled)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # Vision tokens aside, the distribution is 0.4, 0.3, 0.2, 0.1 over ids 0 to 3.
        ({"temperature": 1.0, "top_p": 1.0, "top_k": 0}, [0.4, 0.3, 0.2, 0.1]),
        ({"temperature": 1.0, "top_p": 1.0, "top_k": 2}, [4 / 7, 3 / 7, 0, 0]),
        ({"temperature": 1.0, "top_p": 0.6, "top_k": 0}, [4 / 7, 3 / 7, 0, 0]),
        ({"temperature": 1.0, "top_p": 0.75, "top_k": 0}, [4 / 9, 3 / 9, 2 / 9, 0]),
        ({"temperature": 0.5, "top_p": 1.0, "top_k": 0}, [16 / 30, 9 / 30, 4 / 30, 1 / 30]),
        ({"temperature": 1.0, "top_p": 0.3, "top_k": 0}, [1, 0, 0, 0]),
    ],
)
def test_sampling_follows_the_distribution(settings, expected):
    fake = SimpleNamespace(vision_token_ids=(4,), wordless_ids=(), device=torch.device("cpu"))
    chooser = Chooser(fake, Decoding(max_new_tokens=1, **settings))  # pyright: ignore[reportArgumentType]
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1, 0.5]).log().expand(1000, 5)
    uniforms = (torch.arange(1000) + 0.5) / 1000
    choice = chooser(logits, uniforms)
    counts = torch.bincount(choice.tokens_B, minlength=5) / 1000
    torch.testing.assert_close(counts, torch.tensor([*expected, 0.0]), rtol=0, atol=2e-3)
    whole = (torch.tensor([0.4, 0.3, 0.2, 0.1, 0.5]) ** (1 / settings["temperature"])).log().log_softmax(0)
    torch.testing.assert_close(choice.logprobs_B, whole[choice.tokens_B])


def test_the_largest_uniform_still_picks_a_possible_token():
    fake = SimpleNamespace(vision_token_ids=(4,), wordless_ids=(), device=torch.device("cpu"))
    chooser = Chooser(fake, Decoding(max_new_tokens=1, temperature=1.0))  # pyright: ignore[reportArgumentType]
    logits = torch.tensor([[3.0, 1.0, -torch.inf, 2.0, 9.0, -torch.inf]])
    assert chooser(logits, torch.tensor([1 - 2**-24])).tokens_B.tolist() == [3]
    assert chooser(logits, torch.tensor([0.0])).tokens_B.tolist() == [0]


def test_noise_belongs_to_the_example_and_not_to_its_place():
    def noise(ids: str, seed: int = 3, num: int = 2) -> Any:
        views = [text_view("Go.")] * len(ids)
        return sampling_noise(samples_of(views, ids, num=num, seed=seed), num_tokens=4)

    one, other = noise("abc"), noise("ba")
    assert (one[2:4] == other[0:2]).all() and (one[0:2] == other[2:4]).all()
    assert len({tuple(row) for row in one.tolist()}) == 6
    assert (noise("a", seed=4, num=1) != one[0]).all()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_ids_that_no_token_has_are_never_sampled(temperature):
    """Heads are rounded up: Qwen2.5-VL has 151,665 tokens and 151,936 or 152,064 rows."""
    made = tiny_backbone()
    num_tokens = len(made.tokenizer)
    made.model.resize_token_embeddings(num_tokens + 16, mean_resizing=False)
    with torch.no_grad():
        weight_VH = made.model.get_output_embeddings().weight
        weight_VH[num_tokens:] = weight_VH[:16] * 1.5
    rollouts = generate(
        TransformersEngine(made),
        mixed_views(),
        example_ids=IDS,
        temperature=temperature,
        max_new_tokens=40,
        num_return=2,
    )
    assert all(max(rollout.token_ids) < num_tokens for rollout in rollouts)
    assert made.wordless_ids == tuple(range(num_tokens, num_tokens + 16))


def test_training_mode_and_gradients_are_as_before(backbone):
    backbone.model.train()
    generate(TransformersEngine(backbone), [text_view("Go.")], example_ids=["a"], max_new_tokens=2)
    assert backbone.model.training
    assert backbone.model.config.text_config._attn_implementation == "sdpa"
    inputs = encode_views(backbone, [text_view("Go.")])
    backbone.model(**inputs).logits.sum().backward()
    backbone.model.zero_grad()
    backbone.model.eval()


def test_an_adapter_decodes_with_its_own_weights_and_with_the_bases_when_switched_off():
    backbone = tiny_backbone()
    views = mixed_views()
    settings: dict[str, Any] = {"example_ids": IDS, "max_new_tokens": 12}
    base = generate(TransformersEngine(backbone), views, **settings)
    adapted = with_lora(backbone, LoraSettings(rank=2, alpha=4))
    with torch.no_grad():
        for name, value in adapted.model.named_parameters():
            if "lora_B" in name:
                value.normal_()
    engine = TransformersEngine(adapted)
    moved = generate(engine, views, **settings)
    assert moved != base
    assert_logprobs_agree(adapted, views, moved)
    with adapted.model.disable_adapter():
        again = generate(engine, views, **settings)
    assert [rollout.token_ids for rollout in again] == [rollout.token_ids for rollout in base]


def test_an_over_long_prompt_names_its_example(backbone):
    engine = TransformersEngine(backbone, max_prompt_tokens=10)
    with pytest.raises(PromptTooLongError, match="maze-5-c0de"):
        generate(engine, [text_view(" (1,1)" * 9)], example_ids=["maze-5-c0de"], max_new_tokens=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": -1.0}, "temperature -1.0 must be 0"),
        ({"top_p": 0.0}, "top_p 0.0 must be above 0"),
        ({"top_k": -1}, "top_k -1 must be 0"),
        ({"max_new_tokens": 0}, "max_new_tokens 0 must be at least 1"),
        ({"temperature": 5e-324}, "temperature 5e-324 must be 0"),
        ({"temperature": math.nan}, "temperature nan must be 0"),
        ({"temperature": math.inf}, "temperature inf must be 0"),
        ({"top_p": math.nan}, "top_p nan must be above 0"),
    ],
)
def test_settings_that_make_no_sense_are_named(change, message):
    with pytest.raises(PilotageError, match=message):
        Decoding(**{"max_new_tokens": 2, **change})


def test_an_engine_trains_with_the_weights_that_it_samples_from_or_not_at_all(backbone):
    ReplayEngine([], off_policy=True).sync(backbone.model)
    with pytest.raises(PilotageError, match="off_policy=True"):
        ReplayEngine([]).sync(backbone.model)
    TransformersEngine(backbone).sync(backbone.model)
    with pytest.raises(PilotageError, match="another model is trained"):
        TransformersEngine(backbone).sync(tiny_backbone().model)
    endpoint = EndpointEngine(EndpointConfig(url="http://127.0.0.1:1/v1", model="m"))
    with pytest.raises(PilotageError, match="keeps its own weights"):
        endpoint.sync(backbone.model)


def test_whole_parameters_are_those_of_the_merged_model_and_leave_the_adapter_as_it_is(backbone):
    plain = dict(whole_parameters(backbone.model))
    assert plain.keys() == dict(backbone.model.named_parameters()).keys()
    adapted = with_lora(tiny_backbone(), LoraSettings(rank=2, alpha=4.0))
    with torch.no_grad():
        for name, parameter in adapted.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    before = {name: value.clone() for name, value in adapted.model.state_dict().items()}
    whole = dict(whole_parameters(adapted.model))
    assert whole.keys() == plain.keys()
    assert all(torch.equal(value, before[name]) for name, value in adapted.model.state_dict().items())
    merged = dict(copy.deepcopy(adapted.model).merge_and_unload().named_parameters())
    assert any(not torch.equal(whole[name], plain[name]) for name in plain)
    for name, value in whole.items():
        torch.testing.assert_close(value, merged[name].detach(), rtol=0, atol=1e-6)


def test_replay_gives_back_what_was_recorded_in_turn():
    first = Rollout(example_id="a", token_ids=(1, 2, 3), text="x", finished=True, logprobs=(-1.0, -2.0, -3.0))
    second = Rollout(example_id="a", token_ids=(4,), text="y", finished=True)
    engine = ReplayEngine([first, second])
    views = [text_view("Go.")] * 2
    assert generate(engine, views, example_ids=["a", "a"], max_new_tokens=9) == [first, second]
    (cut,) = generate(engine, views[:1], example_ids=["a"], max_new_tokens=2)
    assert (cut.token_ids, cut.logprobs, cut.finished) == ((1, 2), (-1.0, -2.0), False)
    with pytest.raises(PilotageError, match=r"no rollout is recorded for 'b' \(1 examples have one\)"):
        generate(engine, views[:1], example_ids=["b"], max_new_tokens=9)


def test_vllm_that_is_not_installed_is_an_error_with_the_remedy(backbone, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(PilotageError, match=r"pip install 'pilotage\[vllm\]'"):
        VllmEngine(backbone)


def test_vllm_requests_and_answers_are_translated(backbone, monkeypatch):
    """Against a stand-in: vLLM itself needs a GPU."""
    asked = {}

    class LLM:
        def __init__(self, **options):
            asked["options"] = options

        def generate(self, prompts, sampling_params, use_tqdm):
            asked.update(prompts=prompts, settings=sampling_params)
            entry = SimpleNamespace(logprob=-0.5)
            answer = SimpleNamespace(
                token_ids=[20, 2], logprobs=[{20: entry}, {2: entry}], finish_reason="stop"
            )
            return [SimpleNamespace(outputs=[answer]) for _ in prompts]

    fake = ModuleType("vllm")
    fake.LLM, fake.SamplingParams = LLM, SimpleNamespace  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "vllm", fake)
    engine = VllmEngine(backbone, dtype="bfloat16")
    views = [text_view("Go."), image_view(png(picture(2)))]
    rollouts = generate(engine, views, example_ids=["a", "b"], max_new_tokens=5, temperature=1.0)
    assert asked["options"]["dtype"] == "bfloat16"
    assert "multi_modal_data" not in asked["prompts"][0]
    (shown,) = asked["prompts"][1]["multi_modal_data"]["image"]
    assert shown.size == (64, 64) and asked["options"]["limit_mm_per_prompt"] == {"image": 1}
    assert asked["prompts"][1]["prompt"].count("<|image_pad|>") == 1  # vLLM itself repeats it
    assert set(asked["settings"][0].logit_bias) == set(backbone.vision_token_ids)
    assert [rollout.example_id for rollout in rollouts] == ["a", "b"]
    assert rollouts[0].token_ids == (20, 2) and rollouts[0].logprobs == (-0.5, -0.5) and rollouts[0].finished


def test_vllm_takes_the_trainer_s_weights_and_forgets_what_earlier_ones_made(backbone, monkeypatch):
    """Against a stand-in with the attributes that vLLM has where it runs in this process."""
    calls: list[Any] = []

    class LLM:
        def __init__(self, **options):
            assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0", "elsewhere its model is out of reach"
            calls.append(options["max_model_len"])
            model = SimpleNamespace(load_weights=lambda weights: calls.append(dict(weights)))
            worker = SimpleNamespace(model_runner=SimpleNamespace(model=model))
            self.llm_engine = SimpleNamespace(
                model_executor=SimpleNamespace(driver_worker=worker),
                reset_encoder_cache=lambda: calls.append("pictures"),
            )

        def reset_prefix_cache(self):
            calls.append("prompts")

    fake = ModuleType("vllm")
    fake.LLM = LLM  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "vllm", fake)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    engine: Any = InVllm(max_model_len=2048).open(backbone)
    engine.sync(backbone.model)
    length, weights, *forgotten = calls
    assert length == 2048 and set(forgotten) == {"prompts", "pictures"}
    assert weights.keys() == dict(backbone.model.named_parameters()).keys()
    assert all(torch.equal(value, weights[name]) for name, value in backbone.model.named_parameters())
    assert VllmEngine(backbone) and calls[-1] == -1, "as long as its memory holds"
    with pytest.raises(PilotageError, match="max_model_len 0 must be at least 1"):
        InVllm(max_model_len=0)
