"""Moving and remote teachers: running means by hand, when a refresh is allowed, and going on exactly after a kill."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pilotage.errors import PilotageError
from pilotage.records import Rollout
from pilotage.train.refresh import GatedRefresh, RefreshGate, decide, window_means
from pilotage.train.teachers import EMA, MovingTeacher, Remote, ShadowWeights, remote_logprobs
from tiny import LocalServer, image_view, picture, png, text_view, tiny_backbone


def small(seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).to(dtype)
    model[0].requires_grad_(False)
    return model


def nudge(model: nn.Module, step: int) -> None:
    """A made-up update."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(
                    torch.randn(parameter.shape, generator=generator).to(parameter.dtype), alpha=0.1
                )


def weights_of(shadow: ShadowWeights) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in shadow.state().items()}


def test_running_mean_by_hand():
    """From 1 towards 3 with rate 1/4: 1.5, then 1.875."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    teacher = MovingTeacher(EMA(rate=0.25), model)
    nn.init.constant_(model.weight, 3.0)
    for expected in (1.5, 1.875):
        assert teacher.after_step(model, 1, {}) is None
        assert teacher.shadow.state()["weight"].item() == expected


def test_only_what_trains_is_kept_and_the_head_is_found():
    model = small()
    shadow = ShadowWeights(model)
    assert set(shadow.state()) == {"1.weight", "1.bias"}
    before = model[1].weight.detach().clone()
    nudge(model, 0)
    torch.testing.assert_close(shadow.of(model[1].weight), before, rtol=0, atol=0)
    assert shadow.of(model[0].weight).data_ptr() == model[0].weight.data_ptr()


def test_the_model_reads_with_the_other_weights_and_gets_its_own_back():
    model, x = small(), torch.ones(2, 3)
    shadow = ShadowWeights(model)
    with torch.no_grad():
        before = model(x)
        nudge(model, 0)
        after = model(x)
        with shadow.inside(model):
            torch.testing.assert_close(model(x), before, rtol=0, atol=0)
        torch.testing.assert_close(model(x), after, rtol=0, atol=0)
        with pytest.raises(KeyError), shadow.inside(model):
            raise KeyError
        torch.testing.assert_close(model(x), after, rtol=0, atol=0)
    assert not torch.equal(before, after)


def test_an_optimiser_goes_on_with_the_students_own_weights():
    models = [small(), small()]
    for model, reads in zip(models, (True, False), strict=True):
        shadow, optimiser = ShadowWeights(model), torch.optim.AdamW(model.parameters(), lr=0.1)
        for _ in range(3):
            if reads:
                with torch.no_grad(), shadow.inside(model):
                    model(torch.ones(1, 3))
            model(torch.ones(1, 3)).sum().backward()
            optimiser.step()
            optimiser.zero_grad()
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_small_rates_move_a_bfloat16_teacher():
    model = small(dtype=torch.bfloat16)
    teacher = MovingTeacher(EMA(rate=0.001), model)
    begun = weights_of(teacher.shadow)
    with torch.no_grad():
        model[1].weight.add_(1.0)
    for step in range(1, 11):
        teacher.after_step(model, step, {})
    moved = teacher.shadow.state()["1.weight"] - begun["1.weight"]
    assert moved.dtype == torch.float32
    torch.testing.assert_close(moved, torch.full_like(moved, 1 - 0.999**10), rtol=0.02, atol=0)
    with teacher.shadow.inside(model):
        assert model[1].weight.dtype == torch.bfloat16


GATE = GatedRefresh(every=3, window=2, min_reward_gain=0.05, max_length_change=0.25)


def metrics(reward: float = 0.5, short: float = 19.0, long: float = 39.0) -> dict[str, float]:
    return {"rollout/success": reward, "rollout/length_p05": short, "rollout/length_p95": long, "time/x": 1.0}


@pytest.mark.parametrize(
    ("now", "refresh", "why"),
    [
        (metrics(0.55), True, ""),
        (metrics(0.54), False, "rollout/success 0.54 is below 0.55"),
        (metrics(0.6, short=15.0), True, ""),  # (15 + 1) / (19 + 1) = 0.8 = 1 / 1.25
        (metrics(0.6, short=14.9), False, "length_p05 14.9 is too far from 19"),
        (metrics(0.6, short=24.1), False, "length_p05"),
        (metrics(0.6, long=49.0), True, ""),  # 50 / 40 = 1.25
        (metrics(0.6, long=49.1), False, "length_p95 49.1 is too far from 39"),
        (metrics(0.6, long=30.9), False, "length_p95"),
        (metrics(float("nan")), False, "with all metrics"),
        ({"rollout/success": 0.9}, False, "with all metrics"),
    ],
)
def test_refresh_needs_reward_and_both_tails(now, refresh, why):
    decision = decide(GATE, [now, now], start=metrics(), last=metrics())
    assert decision.refresh == refresh
    assert why in " ".join(decision.reasons)
    assert refresh == (not decision.reasons)


def test_window_is_averaged():
    assert window_means(GATE, [metrics(9.0), metrics(0.2), metrics(0.4)]) == pytest.approx(
        {"rollout/success": 0.3, "rollout/length_p05": 19.0, "rollout/length_p95": 39.0}
    )
    assert window_means(GATE, [metrics()]) is None
    assert not decide(GATE, [metrics(), metrics()], start=None, last=None).refresh


def run_gate(rewards: list[float], shorts: list[float] | None = None) -> list[bool | None]:
    gate = RefreshGate(GATE)
    found = []
    for step, reward in enumerate(rewards, start=1):
        short = 19.0 if shorts is None else shorts[step - 1]
        decision = gate.after_step(step, metrics(reward, short=short))
        found.append(None if decision is None else decision.refresh)
    return found


def test_reward_is_held_against_the_last_refresh():
    rewards = [0.5, 0.5, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.8, 0.8, 0.8]
    none = None
    assert run_gate(rewards) == [none, none, True, none, none, True, none, none, False, none, none, True]


def test_lengths_are_held_against_the_start_so_that_they_cannot_creep():
    """Each time a tenth shorter than at the last refresh, and better rewarded: three times are too many."""
    rewards = [0.1 * step for step in range(1, 13)]
    shorts = [19.0] * 2 + [17.0] * 3 + [15.5] * 3 + [13.5] * 4
    none = None
    assert run_gate(rewards, shorts) == [
        none,
        none,
        True,
        none,
        none,
        True,
        none,
        none,
        False,
        none,
        none,
        False,
    ]


def test_a_refresh_copies_the_student_exactly_and_else_the_teacher_stays():
    model = small()
    teacher = MovingTeacher(GATE, model)
    begun = weights_of(teacher.shadow)
    for step, reward in enumerate([0.5, 0.5, 0.5, 0.5, 0.5, 0.9], start=1):
        nudge(model, step)
        decision = teacher.after_step(model, step, metrics(reward))
        same = all(torch.equal(begun[name], value) for name, value in teacher.shadow.state().items())
        assert same == (step < 6)
    assert decision is not None and decision.refresh
    assert torch.equal(teacher.shadow.state()["1.weight"], model[1].weight)


@pytest.mark.parametrize("weights", [EMA(rate=0.1), GATE], ids=["ema", "gate"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("killed_after", [1, 2, 5])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, weights, dtype, killed_after):
    rewards = [0.5, 0.51, 0.6, 0.7, 0.7, 0.73, 0.71, 0.9, 1 / 3]

    def go_on(model: Any, teacher: MovingTeacher, first: int, last: int) -> list[Any]:
        decisions = []
        for step in range(first, last + 1):
            nudge(model, step)
            decisions.append(teacher.after_step(model, step, metrics(rewards[step - 1] / 3 + 0.1)))
        return decisions

    model = small(dtype=dtype)
    teacher = MovingTeacher(weights, model)
    whole = go_on(model, teacher, 1, killed_after)
    teacher.save(tmp_path / "checkpoint")
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    rest = go_on(model, teacher, killed_after + 1, 9)

    again = small(seed=1, dtype=dtype)
    again.load_state_dict(kept)
    resumed = MovingTeacher(weights, again)
    resumed.load(tmp_path / "checkpoint")
    assert go_on(again, resumed, killed_after + 1, 9) == rest
    for name, value in teacher.shadow.state().items():
        assert torch.equal(resumed.shadow.state()[name], value)
    assert any(d is not None and d.refresh for d in whole + rest) == isinstance(weights, GatedRefresh)


def test_checkpoints_of_others_are_refused(tmp_path):
    model = small()
    with pytest.raises(PilotageError, match="holds no teacher.json"):
        MovingTeacher(EMA(rate=0.1), model).load(tmp_path)
    MovingTeacher(EMA(rate=0.1), model).save(tmp_path)
    assert json.loads((tmp_path / "teacher.json").read_text())["weights"] == {"class": "EMA", "rate": 0.1}
    with pytest.raises(PilotageError, match="'rate': 0.2"):
        MovingTeacher(EMA(rate=0.2), model).load(tmp_path)
    with pytest.raises(PilotageError, match="other parameters"):
        MovingTeacher(EMA(rate=0.1), nn.Linear(3, 3)).load(tmp_path)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: EMA(rate=0.0), "FrozenCopy"),
        (lambda: EMA(rate=1.5), "at most 1"),
        (lambda: GatedRefresh(every=0, window=1), "every 0"),
        (lambda: GatedRefresh(every=1, window=1, max_length_change=0.0), "max_length_change 0.0"),
        (lambda: GatedRefresh(every=1, window=1, min_reward_gain=math.inf), "min_reward_gain inf"),
        (lambda: ShadowWeights(small().requires_grad_(False)), "no parameter that trains"),
        (lambda: Remote(url="ftp://x", model="m").scorer(), "http or https"),
        (
            lambda: Remote(url="http://x/v1", model="m", api_key_variable="NO_SUCH_KEY").scorer(),
            "NO_SUCH_KEY",
        ),
    ],
)
def test_settings_that_make_no_sense_are_named(make, named):
    with pytest.raises(PilotageError, match=named):
        make()


def test_a_moving_teacher_of_a_whole_model_scores_as_the_model_did():
    backbone = tiny_backbone()
    model = backbone.model
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        before = model(input_ids=ids).logits
        shadow = ShadowWeights(model)
        for parameter in model.parameters():
            parameter.mul_(0.9)
        with shadow.inside(model):
            torch.testing.assert_close(model(input_ids=ids).logits, before, rtol=0, atol=0)
        assert (model(input_ids=ids).logits - before).abs().max() > 0.1


# -- a server -----------------------------------------------------------------------------------------------------


def test_remote_log_probs_are_those_of_the_same_model_here():
    from pilotage.backbones.encode import encode_with_response
    from pilotage.distill.align import predicting_positions, response_tokens

    server: Any = LocalServer()
    views = [text_view("Size: 4."), text_view("Plan a way over the ice.", prefill="Size:")]
    rollouts = [
        Rollout(example_id=f"r{i}", token_ids=ids, text="", finished=True)
        for i, ids in enumerate([(5, 6, 7), (9, 8)])
    ]
    scores = remote_logprobs(server, server.backbone, views, rollouts)
    encoded = encode_with_response(server.backbone, views, [list(rollout.token_ids) for rollout in rollouts])
    inputs = dict(encoded["inputs"])
    inputs.pop("attention_mask")
    with torch.no_grad():
        logits_BSV = server.backbone.model(**inputs).logits
    rows_M, columns_M = predicting_positions(encoded["response_mask"])
    ids_M = response_tokens(encoded["inputs"]["input_ids"], encoded["response_mask"])
    expected_M = logits_BSV[rows_M, columns_M].log_softmax(-1).gather(1, ids_M[:, None])[:, 0]
    torch.testing.assert_close(torch.cat(scores), expected_M, rtol=0, atol=1e-4)
    assert [len(of_row) for of_row in scores] == [3, 2]


def test_a_server_is_shown_no_pictures():
    rollout = Rollout(example_id="maze-3-x", token_ids=(1,), text="", finished=True)
    with pytest.raises(PilotageError, match="maze-3-x, view 'student'.*text only"):
        remote_logprobs(
            Remote(url="http://x/v1", model="m").scorer(),
            tiny_backbone(),
            [image_view(png(picture(2)))],
            [rollout],
        )
