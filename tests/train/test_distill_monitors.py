"""A step's figures, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from distill_run import tiny_examples
from pilotage.distill.spans import SPANS, MgsdLayout, Spans
from pilotage.records import Rollout
from pilotage.report.curves import PANELS, panels
from pilotage.train.step.monitors import (
    RowRecord,
    SpanFinder,
    Taught,
    repetition,
    row_record,
    step_metrics,
)
from pilotage.views import reference_of_view
from pilotage.worlds import get_task
from pilotage.worlds.score import score
from tiny import tiny_backbone


def test_repetition_is_the_share_of_runs_that_came_before():
    assert repetition([1, 2, 3]) == 0.0
    assert repetition([1, 2, 3, 4, 5]) == 0.0
    assert repetition([7] * 9) == pytest.approx(5 / 6)  # six runs, one of them new
    assert repetition([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)


def record(slot: int, num_tokens: int, *, task: str = "maze", **changes: object) -> RowRecord:
    example = next(example for example in tiny_examples() if example.task == task)
    world = get_task(example.task)
    text = reference_of_view(example, "student") if changes.pop("right", False) else "no"
    rollout = Rollout(
        example_id=example.id, token_ids=tuple(range(num_tokens)), text=text, finished=num_tokens < 4
    )
    figures = np.arange(1.0, num_tokens + 1)
    owners = ["state"] * (num_tokens - 1) + ["answer"] if num_tokens else []
    taught = Taught(
        mask_T=np.ones(num_tokens, dtype=bool),
        loss_M=figures / 10,
        nats_M=figures,
        entropy_M=figures * 2,
        capped_M=(figures > 3).astype(float),
        agreed_M=None if changes.get("agreed", True) is None else (figures > 1).astype(float),
    )
    return row_record(
        example,
        rollout,
        slot=slot,
        origin="student",
        is_own=True,
        spans=Spans(owners=tuple(owners), names=SPANS),
        prompt=slot,
        sample=0,
        credit=0.0,
        role="plan",
        number=0,
        num_turns=1,
        is_last=True,
        outcome=score(world, world.parse_state(example.state), text),
        taught={"plan": taught},
        content_T=np.arange(num_tokens) % 2 == 0,
    )


def test_figures_are_means_over_all_tokens_and_rows_whatever_their_order():
    rows = [record(0, 3, task="frozenlake", right=True), record(1, 4), record(2, 0)]
    figures = step_metrics(rows)
    assert figures == step_metrics(rows[::-1])
    assert figures["loss"] == pytest.approx((6 + 10) / 10)
    assert figures["kl/all"] == pytest.approx(16 / 7)
    assert figures["kl/state"] == pytest.approx((1 + 2 + 1 + 2 + 3) / 5)
    assert figures["kl/answer"] == pytest.approx((3 + 4) / 2)
    assert "kl/route" not in figures
    assert figures["policy/entropy"] == pytest.approx(32 / 7)
    assert figures["loss/cap_rate"] == pytest.approx(1 / 7)
    assert figures["teacher/agreement"] == pytest.approx(5 / 7)
    assert figures["rollout/length_mean"] == pytest.approx(7 / 3)
    assert figures["rollout/length_p05"] == pytest.approx(0.3)
    assert figures["rollout/length_p95"] == pytest.approx(3.9)
    assert figures["rollout/truncated"] == pytest.approx(1 / 3)
    assert figures["rollout/parsed"] == figures["rollout/success"] == pytest.approx(1 / 3)
    assert figures["rollout/success/frozenlake"] == 1.0
    assert figures["rollout/success/maze"] == 0.0


def test_where_along_a_rollout_the_divergence_lies_and_how_much_of_it_is_style():
    """1, 2, 3, 4 nats and 1 to 8 nats; every second token is style."""
    figures = step_metrics([record(0, 4), record(1, 8)])
    means = [figures[f"position/kl_{part}of4"] for part in (1, 2, 3, 4)]
    assert means == pytest.approx([(1 + 3) / 3, (2 + 7) / 3, (3 + 11) / 3, (4 + 15) / 3])
    assert figures["style/token_share"] == 0.5
    assert figures["style/kl_share"] == pytest.approx((6 + 20) / (10 + 36))
    assert "position/kl_4of4" not in step_metrics([record(0, 3)])


def test_cells_sizes_and_moves_are_content_and_the_form_around_them_is_style():
    backbone = tiny_backbone()
    for example in tiny_examples():
        text = reference_of_view(example, "student") + str(backbone.tokenizer.eos_token)
        ids = backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
        content = SpanFinder(backbone).holds_content(ids, ("L", "D", "R", "U"))
        kept = backbone.decode([token for token, is_content in zip(ids, content, strict=True) if is_content])
        form = backbone.decode(
            [token for token, is_content in zip(ids, content, strict=True) if not is_content]
        )
        assert not any(map(str.isdigit, form)) and "answer" in form and "Size" in form
        assert all(action in kept for action in example.plan) and "answer" not in kept


def test_a_teacher_known_by_samples_alone_has_no_agreement():
    assert "teacher/agreement" not in step_metrics([record(0, 3, agreed=None)])


def test_spans_of_a_reference_answer_end_at_the_newline_and_the_tag():
    backbone = tiny_backbone()
    text = "Size: 3. Player: (0,0).\nRoute: (0,0).\n<answer>R</answer>"
    ids = backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
    owners = SpanFinder(backbone).find(MgsdLayout(), [*ids, backbone.eos_ids[0]]).owners  # pyright: ignore
    parts = {
        span: backbone.decode([token for token, owner in zip(ids, owners, strict=False) if owner == span])
        for span in ("state", "route", "answer")
    }
    assert parts == {
        "state": "Size: 3. Player: (0,0).\n",
        "route": "Route: (0,0).\n",
        "answer": "<answer>R</answer>",
    }
    assert owners[-1] == "answer"


def test_every_figure_has_a_panel_on_the_page_with_its_unit() -> None:
    figures = step_metrics([record(0, 4), record(1, 8, origin="dataset")])
    known = {spec.title for spec in PANELS}
    assert {panel.title for panel in panels([{"step": 1} | dict.fromkeys(figures, 0.5)])} <= known
