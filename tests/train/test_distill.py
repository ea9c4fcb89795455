"""The distillation step: what must hold whatever is learnt."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distill_run import references, replay, rows_of, tiny_config, tiny_examples
from pilotage.backbones.encode import PromptTooLongError
from pilotage.backbones.load import Backbone, LoraSettings, with_lora
from pilotage.distill.divergences import JSD, DropCap, ForwardKL, ReverseKL
from pilotage.distill.estimators import FullVocabulary, Sampled, TopK
from pilotage.errors import PilotageError
from pilotage.records import Example, Rollout
from pilotage.rollouts import ReplayEngine
from pilotage.rollouts.sources import FromStudent, Sampling, only
from pilotage.rollouts.transformers_engine import TransformersEngine
from pilotage.train.distill import DistillTrainer, distill
from pilotage.train.distill_config import AdapterOff, FrozenCopy, as_settings
from pilotage.train.step.order import ExampleOrder
from pilotage.train.step.scoring import encode_rollouts, head_of, score_rows
from pilotage.views import reference_of_view
from pilotage.worlds.grids.views import VIEWS
from tiny import generate, tiny_backbone

ESTIMATORS = {
    "forward": FullVocabulary(divergence=ForwardKL()),
    "reverse": FullVocabulary(divergence=ReverseKL()),
    "jsd": FullVocabulary(divergence=JSD(beta=0.5)),
    "chunked": FullVocabulary(divergence=ReverseKL(), chunk_size=3),
    "renormalised": TopK(k=8, divergence=ForwardKL(), mode="renormalise"),
    "tail": TopK(k=8, divergence=ReverseKL(), mode="tail"),
    "advantage": Sampled(as_="advantage"),
    "k3": Sampled(as_="loss"),
}


pytestmark = pytest.mark.usefixtures("one_thread")


def metrics_of(
    tmp_path: Path,
    *,
    student: Backbone | None = None,
    examples: Any = None,
    engine: Any = None,
    **changes: Any,
) -> dict[str, Any]:
    """The last step's row of a small run in a new folder."""
    rows: list[dict[str, Any]] = []
    number = len(list(tmp_path.iterdir()))
    distill(
        tiny_config(**changes),
        student=student or tiny_backbone(),
        examples=examples or tiny_examples(),
        run_dir=tmp_path / str(number),
        engine=engine,
        on_step=rows.append,
    )
    return rows[-1]


def reference_ids(example: Example, view: str = "student") -> tuple[int, ...]:
    tokenizer = tiny_backbone().tokenizer
    text = reference_of_view(example, view) + str(tokenizer.eos_token)
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])  # pyright: ignore[reportArgumentType]


# -- nothing to learn ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_teacher_equal_to_the_student_gives_no_gradient(tmp_path, name):
    row = metrics_of(tmp_path, estimator=ESTIMATORS[name], view="student")
    assert abs(row["loss"]) < 1e-6
    assert row["grad_norm"] < 1e-4


@pytest.mark.parametrize("name", ["reverse", "advantage", "tail"])
def test_a_privileged_teacher_gives_one(tmp_path, name):
    row = metrics_of(tmp_path, estimator=ESTIMATORS[name])
    assert row["grad_norm"] > 1e-2
    assert row["kl/all"] > 1e-2


def test_the_control_without_privilege_begins_at_zero_divergence(tmp_path):
    row = metrics_of(tmp_path, view="student")
    assert row["kl/all"] < 1e-6
    assert row["teacher/agreement"] == 1.0


def test_the_same_view_and_weights_give_the_rollouts_own_logprobs():
    backbone = tiny_backbone()
    examples = tiny_examples()[::3]
    views = [VIEWS["student"](example, "brief") for example in examples]
    rollouts = generate(
        TransformersEngine(backbone),
        views,
        example_ids=[example.id for example in examples],
        max_new_tokens=9,
        temperature=1.0,
        seed=3,
    )
    encoded = encode_rollouts(backbone, views, rollouts, max_prompt_tokens=None, pad_to_multiple=16)
    for batch_size in (1, 3):
        states = score_rows(backbone.model, encoded, batch_size=batch_size, pad_to_multiple=16)
        for hidden_TH, rollout in zip(states, rollouts, strict=True):
            logp_TV = head_of(backbone.model, hidden_TH).logits().log_softmax(-1)
            ids_T = torch.tensor(rollout.token_ids)
            got = logp_TV.gather(1, ids_T[:, None])[:, 0].tolist()
            assert got == pytest.approx(list(rollout.logprobs), abs=1e-4)


# -- what must not matter -----------------------------------------------------------------------------------------


def test_the_loss_does_not_depend_on_micro_batches_or_padding(tmp_path):
    examples = tiny_examples()
    ids = {example.id: reference_ids(example)[: 4 + 5 * place] for place, example in enumerate(examples)}
    rows, weights = [], []
    for micro, teacher_batch, pad in ((1, 1, 1), (3, 2, 16), (8, 8, 64)):
        student = tiny_backbone()
        row = metrics_of(
            tmp_path,
            student=student,
            engine=replay(ids),
            steps=2,
            prompts_per_step=8,
            max_new_tokens=60,
            micro_batch_size=micro,
            teacher_batch_size=teacher_batch,
            pad_to_multiple=pad,
            reduction="task",
        )
        rows.append({name: value for name, value in row.items() if "time" not in name and name != "stage"})
        weights.append(student.model.model.language_model.layers[0].mlp.up_proj.weight.detach().clone())
    for row in rows[1:]:
        assert row == pytest.approx(rows[0], rel=1e-4, abs=1e-6)
    assert (weights[1] - weights[0]).abs().max() < 1e-4
    assert (weights[2] - weights[0]).abs().max() < 1e-4


def test_checkpointed_activations_change_nothing(tmp_path):
    plain, checkpointed = (metrics_of(tmp_path, gradient_checkpointing=flag) for flag in (False, True))
    assert checkpointed["loss"] == pytest.approx(plain["loss"], rel=1e-6)
    assert checkpointed["grad_norm"] == pytest.approx(plain["grad_norm"], rel=1e-5)


def test_bfloat16_is_close_and_leaves_the_weights_in_float32(tmp_path):
    engine = replay({example.id: reference_ids(example)[:12] for example in tiny_examples()})
    student = tiny_backbone()
    plain = metrics_of(tmp_path, engine=engine, max_new_tokens=12)
    half = metrics_of(tmp_path, engine=engine, max_new_tokens=12, student=student, bf16=True)
    assert half["kl/all"] == pytest.approx(plain["kl/all"], rel=0.1)
    assert half["kl/all"] != plain["kl/all"]
    assert {parameter.dtype for parameter in student.model.parameters()} == {torch.float32}


def test_reductions_weigh_tokens_rows_and_tasks(tmp_path):
    lake, maze = (next(e for e in tiny_examples() if e.task == task) for task in ("frozenlake", "maze"))
    ids = {lake.id: reference_ids(lake)[:3], maze.id: reference_ids(maze)[:9]}

    def loss_of(examples: tuple[Example, ...], reduction: str) -> float:
        row = metrics_of(
            tmp_path,
            examples=examples,
            engine=replay(ids),
            prompts_per_step=len(examples),
            max_new_tokens=20,
            reduction=reduction,
        )
        return row["loss"]

    short, long = loss_of((lake,), "token"), loss_of((maze,), "token")
    assert abs(short - long) > 1e-3
    assert loss_of((lake, maze), "token") == pytest.approx((3 * short + 9 * long) / 12, rel=1e-4)
    assert loss_of((lake, maze), "sequence") == pytest.approx((short + long) / 2, rel=1e-4)
    assert loss_of((lake, maze), "task") == pytest.approx((short + long) / 2, rel=1e-4)


# -- rollouts as they come ----------------------------------------------------------------------------------------


def test_empty_truncated_and_unparsed_rollouts_stay_in_the_batch(tmp_path):
    examples = tiny_examples(tasks=("frozenlake",))[:4]
    eos = tiny_backbone().eos_ids[-1]
    good = reference_ids(examples[0])
    ids = dict(
        zip([e.id for e in examples], [good, (), good[:7], (40, 40, 40, 40, 40, 40, eos)], strict=True)
    )
    backbone = tiny_backbone()
    engine = ReplayEngine(
        (
            Rollout(example_id=name, token_ids=row, text=backbone.decode(row), finished=eos in row)
            for name, row in ids.items()
        ),
        off_policy=True,
    )
    row = metrics_of(tmp_path, examples=examples, engine=engine, max_new_tokens=200, micro_batch_size=1)
    assert row["rollout/length_mean"] == (len(good) + 0 + 7 + 7) / 4
    assert row["rollout/truncated"] == 0.5
    assert row["rollout/parsed"] == 0.25
    assert row["rollout/success"] == row["rollout/success/frozenlake"] == 0.25
    # Of the last row's 4 runs of four ids, 2 are new: 40 40 40 40 and the one that ends the turn.
    assert row["rollout/repetition"] == pytest.approx((4 - 2) / 4 / 4)
    assert row["grad_norm"] > 0


def test_a_batch_without_any_token_is_a_step_that_changes_nothing(tmp_path):
    student, before = tiny_backbone(), tiny_backbone()
    engine = replay({example.id: () for example in tiny_examples()})
    row = metrics_of(tmp_path, student=student, engine=engine, weight_decay=0.0)
    assert row["loss"] == 0 and row["grad_norm"] == 0
    assert torch.equal(student.model.lm_head.weight, before.model.lm_head.weight)


def test_rollouts_are_sampled_anew_with_the_weights_of_the_step(tmp_path):
    metrics_of(tmp_path, steps=2, examples=tiny_examples()[:1], prompts_per_step=1, lr=0.05)
    lines = (tmp_path / "0" / "rollouts.jsonl").read_text().splitlines()
    first, second = (json.loads(line) for line in lines)
    assert first["id"] == second["id"] and first["response"] != second["response"]
    assert set(first["outcome"]) >= {"parsed", "success", "reason"}


def test_vision_tokens_are_never_in_rollouts(tmp_path):
    seen: list[Rollout] = []
    student = tiny_backbone()

    class Spy(TransformersEngine):
        def generate(self, requests: Any, decoding: Any, **more: Any) -> list[Rollout]:
            rollouts = super().generate(requests, decoding, **more)
            seen.extend(rollouts)
            return rollouts

    with torch.no_grad():  # a policy that would write little else
        student.model.lm_head.weight[list(student.vision_token_ids)] *= 8
    metrics_of(tmp_path, student=student, engine=Spy(student), max_new_tokens=20)
    assert sum(rollout.meta["num_vision_attempts"] for rollout in seen) > 0
    assert not {token for rollout in seen for token in rollout.token_ids} & set(student.vision_token_ids)


@pytest.mark.parametrize("engine", [None, "replay"])
def test_an_over_long_prompt_is_an_error_that_names_its_example(tmp_path, engine):
    example = tiny_examples()[0]
    replayed = replay({example.id: (40, 41)}) if engine else None
    with pytest.raises(PromptTooLongError, match=example.id):
        metrics_of(tmp_path, examples=[example], engine=replayed, prompts_per_step=1, max_prompt_tokens=10)


# -- learning -----------------------------------------------------------------------------------------------------


def test_the_student_comes_to_say_what_the_teacher_says(tmp_path):
    example = tiny_examples()[0]
    engine = replay({example.id: reference_ids(example)[:8]})
    settings: dict[str, Any] = {"examples": [example], "prompts_per_step": 1, "weight_decay": 0.0}
    settings |= {"estimator": ESTIMATORS["forward"], "max_new_tokens": 8, "checkpoint_every": 100}
    first = metrics_of(tmp_path, engine=engine, steps=1, **settings)
    last = metrics_of(tmp_path, engine=engine, steps=30, lr=3e-3, **settings)
    assert last["loss"] < 0.2 * first["loss"]


def test_the_caps_rate_is_logged(tmp_path):
    capped = FullVocabulary(divergence=ForwardKL(), cap=DropCap(tau=1e-6))
    row = metrics_of(tmp_path, estimator=capped)
    assert row["loss/cap_rate"] == 1.0
    assert row["grad_norm"] == 0.0
    assert metrics_of(tmp_path)["loss/cap_rate"] == 0.0


def test_divergence_is_logged_by_span(tmp_path):
    examples = tiny_examples(tasks=("frozenlake",))
    engine = replay({example.id: reference_ids(example) for example in examples})
    row = metrics_of(tmp_path, examples=examples, engine=engine, max_new_tokens=300)
    assert row["rollout/success"] == 1.0
    spans = [row["kl/state"], row["kl/route"], row["kl/answer"]]
    assert min(spans) < row["kl/all"] < max(spans)


# -- the teacher --------------------------------------------------------------------------------------------------


def test_the_frozen_copy_stays_as_it_was(tmp_path):
    student = tiny_backbone()
    trainer = DistillTrainer(
        tiny_config(steps=2), student=student, examples=tiny_examples(), run_dir=tmp_path
    )
    trainer.run()
    first = tiny_backbone().model.state_dict()
    teacher = trainer.teacher.model.state_dict()
    assert all(torch.equal(teacher[name], first[name]) for name in first)
    assert not torch.equal(student.model.lm_head.weight, first["lm_head.weight"])


def test_the_teacher_may_be_another_model(tmp_path):
    rows = []
    for seed in (0, 1):
        distill(
            tiny_config(view="student"),
            student=tiny_backbone(0),
            teacher=tiny_backbone(seed),
            examples=tiny_examples(),
            run_dir=tmp_path / str(seed),
            on_step=rows.append,
        )
    assert rows[0]["kl/all"] < 1e-6 < 0.1 < rows[1]["kl/all"]


def padded(backbone: Backbone, num_rows: int = 16) -> Backbone:
    """The same model with rows in its head that no token has."""
    size = backbone.model.get_output_embeddings().weight.shape[0]
    backbone.model.resize_token_embeddings(size + num_rows, mean_resizing=False)
    return backbone


@pytest.mark.parametrize("name", ["reverse", "tail", "advantage"])
@pytest.mark.parametrize("larger", ["teacher", "student"])
def test_heads_of_one_tokenizer_may_be_rounded_up_differently(tmp_path, name, larger):
    """Qwen2.5-VL-7B has 128 rows more than the 3B; what neither has a word for is not compared."""
    rows = []
    for number, pad in enumerate((False, True)):
        student, teacher = tiny_backbone(), tiny_backbone(seed=1)
        if pad:
            padded(teacher if larger == "teacher" else student)
        distill(
            tiny_config(estimator=ESTIMATORS[name], steps=2),
            student=student,
            teacher=teacher,
            examples=tiny_examples(),
            run_dir=tmp_path / str(number),
            engine=references(tiny_backbone()),
            on_step=rows.append,
        )
    for was, now in zip(rows[:2], rows[2:], strict=True):
        assert now["loss"] == pytest.approx(was["loss"], rel=1e-4)
        assert now["grad_norm"] == pytest.approx(was["grad_norm"], rel=1e-3)


def test_with_the_adapter_off_the_student_is_its_own_teacher(tmp_path):
    student = with_lora(tiny_backbone(), LoraSettings(rank=2, alpha=4))
    same = metrics_of(tmp_path, student=student, weights=AdapterOff(), view="student")
    assert same["kl/all"] < 1e-6
    student = with_lora(tiny_backbone(), LoraSettings(rank=2, alpha=4))
    row = metrics_of(tmp_path, student=student, weights=AdapterOff(), steps=2)
    assert row["kl/all"] > 1e-2
    base, first = student.model.get_base_model().state_dict(), tiny_backbone().model.state_dict()
    name = "model.language_model.layers.0.self_attn.q_proj"
    assert torch.equal(base[f"{name}.base_layer.weight"], first[f"{name}.weight"])
    assert base[f"{name}.lora_B.default.weight"].abs().max() > 0
    assert (tmp_path / "1" / "stage2" / "adapter" / "adapter_model.safetensors").exists()


def test_the_adapter_off_needs_an_adapter(tmp_path):
    with pytest.raises(PilotageError, match="LoRA"):
        metrics_of(tmp_path, weights=AdapterOff())


# -- rollouts that describe ---------------------------------------------------------------------------------------


def test_a_share_of_the_prompts_asks_for_a_description(tmp_path):
    examples = tiny_examples(tasks=("frozenlake",))[:4]
    plans = dict.fromkeys([e.id for e in examples], reference_ids(examples[0])[:5])
    words = {example.id: reference_ids(example, "perception") for example in examples}
    asked: list[str] = []

    class Engine(ReplayEngine):
        def generate(self, requests: Any, decoding: Any) -> list[Rollout]:
            asked.extend(request.view.name for request in requests)
            return [
                replay(words if request.view.name == "perception" else plans).generate([request], decoding)[0]
                for request in requests
            ]

    row = metrics_of(
        tmp_path,
        examples=examples,
        engine=Engine([], off_policy=True),
        max_new_tokens=200,
        perception_share=0.25,
    )
    assert asked == ["student", "student", "student", "perception"]
    assert row["rollout/described"] == 1.0
    assert row["rollout/parsed"] == 0.0
    assert row["kl/description"] > 1e-2 and row["kl/state"] > 1e-2
    control = metrics_of(
        tmp_path,
        examples=examples,
        engine=Engine([], off_policy=True),
        max_new_tokens=200,
        perception_share=0.25,
        view="student",
    )
    assert control["kl/description"] < 1e-6 and control["kl/all"] < 1e-6


def test_descriptions_are_spread_over_tasks_and_steps():
    order = ExampleOrder(tiny_examples(), prompts_per_step=4, seed=0)  # two rounds of two tasks
    drawn = [[index for index in range(4) if order.is_drawn(step, index, 0.25)] for step in range(4)]
    assert drawn == [[], [2, 3], [], [2, 3]]
    assert not any(order.is_drawn(step, index, 0.0) for step in range(9) for index in range(4))


# -- order, schedule, settings ------------------------------------------------------------------------------------


def test_tasks_take_turns_and_each_pass_shows_every_example_once():
    examples = tiny_examples()  # five of each of two tasks
    order = ExampleOrder(examples, prompts_per_step=4, seed=0)
    steps = [[slot.example for slot in order.slots(step)] for step in range(5)]
    for step in steps:
        assert [example.task for example in step] == ["frozenlake", "maze", "frozenlake", "maze"]
    dealt = [example.id for step in steps for example in step]
    assert sorted(dealt) == sorted([example.id for example in examples] * 2)
    lakes = [name for name in dealt if name.startswith("frozenlake")]
    assert set(lakes[:5]) == set(lakes[5:]) and lakes[:5] != lakes[5:]


def test_no_step_shows_an_example_twice_even_across_passes():
    order = ExampleOrder(tiny_examples(), prompts_per_step=6, seed=0)  # three of five a step
    for step in range(40):
        ids = [slot.example.id for slot in order.slots(step)]
        assert len(set(ids)) == 6
    dealt = [slot.example.id for step in range(5) for slot in order.slots(step)]
    assert sorted(dealt) == sorted([example.id for example in tiny_examples()] * 3)


def test_the_order_depends_on_the_seed_and_the_step_alone():
    def dealt(seed: int, step: int) -> list[str]:
        order = ExampleOrder(tiny_examples(), prompts_per_step=4, seed=seed)
        return [slot.example.id for slot in order.slots(step)]

    in_order = ExampleOrder(tiny_examples(), prompts_per_step=4, seed=0)
    steps = [[slot.example.id for slot in in_order.slots(step)] for step in range(9)]
    assert dealt(0, 8) == steps[8]
    assert [dealt(0, step) for step in range(3)] != [dealt(1, step) for step in range(3)]


def test_learning_rates_by_hand():
    constant = tiny_config(steps=10, warmup_share=0.4)
    assert [constant.rate_share(step) for step in (0, 1, 3, 4, 9)] == [0.25, 0.5, 1.0, 1.0, 1.0]
    linear = replace(constant, schedule="linear", warmup_share=0.0)
    assert [linear.rate_share(step) for step in (0, 5, 10)] == [1.0, 0.5, 0.0]
    cosine = replace(constant, schedule="cosine", warmup_share=0.2)
    assert [cosine.rate_share(step) for step in (0, 2, 6, 10)] == pytest.approx([0.5, 1.0, 0.5, 0.0])


def test_the_learning_rate_of_a_step_is_logged_with_it(tmp_path):
    row = metrics_of(tmp_path, steps=2, warmup_share=1.0, lr=1e-3)
    assert row["lr"] == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"steps": 0}, "steps 0"),
        ({"view": "oracle"}, "oracle"),
        (
            {
                "sources": only(FromStudent(sampling=Sampling(temperature=0.7))),
                "estimator": Sampled(as_="advantage"),
            },
            "0.7",
        ),
        ({"reduction": "batch"}, "batch"),
        ({"lr": -1.0}, "lr -1"),
        ({"warmup_share": 1.5}, "warmup_share 1.5"),
    ],
)
def test_settings_that_make_no_sense_are_named(changes, named):
    with pytest.raises(PilotageError, match=named):
        tiny_config(**changes)


def test_settings_are_json_with_class_names():
    settings = json.loads(json.dumps(as_settings(tiny_config(weights=FrozenCopy(source="nano")))))
    (route,) = settings["router"]["routes"]
    assert route["weights"] == {"class": "FrozenCopy", "source": "nano"} and "sources" not in settings
    assert route["estimator"]["divergence"] == {"class": "ReverseKL"}


def test_noise_on_pictures_changes_no_step_on_words_alone(tmp_path: Path) -> None:
    words = tiny_config(steps=2, student_view="symbolic", view="symbolic")
    for name, pixel_noise in (("clean", 0.0), ("noisy", 0.5)):
        distill(
            replace(words, pixel_noise=pixel_noise),
            student=tiny_backbone(),
            examples=tiny_examples(),
            run_dir=tmp_path / name,
        )
    assert rows_of(tmp_path / "noisy") == rows_of(tmp_path / "clean")
