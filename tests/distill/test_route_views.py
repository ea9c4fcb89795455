"""Routes on a real (tiny) model: what a teacher is shown decides its scores, only that; settings that must agree."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pilotage.backbones.encode import encode_with_response
from pilotage.backbones.load import Backbone
from pilotage.distill.align import predicting_positions, response_tokens
from pilotage.distill.divergences import ReverseKL
from pilotage.distill.estimators import FullVocabulary, Sampled
from pilotage.distill.policy_gradient import PolicyGradient
from pilotage.distill.routes import Append, Route, Router, route_rows
from pilotage.distill.spans import Spans
from pilotage.distill.token_weights import RowFacts
from pilotage.distill.vigos_spans import VIGOS_SPANS, VigosLayout
from pilotage.errors import PilotageError
from pilotage.records import View
from pilotage.rollouts.sources import FromDataSet, FromStudent, Sampling, on_policy_share, only
from pilotage.rollouts.transformers_engine import TransformersEngine
from pilotage.train.route_checks import check_routes
from pilotage.train.teachers import Remote
from pilotage.views.variants import varied
from tiny import generate, image_view, picture, png, tiny_backbone

D, R, A, U = VIGOS_SPANS
FULL = FullVocabulary(divergence=ReverseKL())
VIEW = image_view(png(picture(2, seed=4)))
IDS = (25, 26, 27, 28, 29, 30, 31, 32)
OWNERS = (D, D, U, R, R, R, A, A)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny_backbone()


def logps(backbone: Backbone, view: View, ids: tuple[int, ...]) -> Tensor:
    """[T] log-probabilities of the ids behind a view."""
    encoded = encode_with_response(backbone, [view], [ids])
    inputs = dict(encoded["inputs"])
    inputs.pop("attention_mask")
    with torch.no_grad():
        logits_BSV = backbone.model(**inputs).logits
    rows_M, columns_M = predicting_positions(encoded["response_mask"])
    ids_M = response_tokens(encoded["inputs"]["input_ids"], encoded["response_mask"])
    return logits_BSV[rows_M, columns_M].log_softmax(-1).gather(1, ids_M[:, None])[:, 0]


def route(**changes: Any) -> Route:
    return Route(**{"name": "one", "view": "student", "weights": "base", "estimator": FULL, **changes})


def taught(backbone: Backbone, spans: tuple[str, ...], append: Append, view: View = VIEW) -> Tensor:
    """Scores of the taught tokens, as a route would have them."""
    router = Router(layout=VigosLayout(), routes=(route(spans=spans, append=append),))
    facts = RowFacts(spans=Spans(owners=OWNERS, names=VIGOS_SPANS))
    (routed,) = route_rows(router, [facts])["one"]
    return logps(backbone, view, IDS[routed.shown])[torch.from_numpy(routed.mask_T[routed.shown])]


@pytest.mark.parametrize("spans", [(D,), (R, A), (D, A)], ids=str)
def test_the_rest_of_the_rollout_does_not_matter_to_a_causal_model(backbone, spans):
    full, cut = taught(backbone, spans, "full"), taught(backbone, spans, "upto_span")
    torch.testing.assert_close(cut, full, rtol=0, atol=1e-5)
    own = logps(backbone, VIEW, IDS)[[owner in spans for owner in OWNERS]]
    torch.testing.assert_close(full, own, rtol=0, atol=1e-5)


def test_a_teacher_that_sees_its_span_alone_does_not_know_what_came_before(backbone):
    alone, whole = taught(backbone, (R, A), "span_only"), taught(backbone, (R, A), "full")
    assert (alone - whole).abs().max() > 0.1
    torch.testing.assert_close(alone, logps(backbone, VIEW, IDS[3:]), rtol=0, atol=1e-5)
    first = taught(backbone, (D,), "span_only")
    torch.testing.assert_close(first, taught(backbone, (D,), "full"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("images", ["same", "none", "crop", "other"])
def test_the_picture_decides_the_scores(backbone, images):
    view = varied(VIEW, images=images, other=(png(picture(2, seed=5)),), seed=1)
    changed = (logps(backbone, view, IDS) - logps(backbone, VIEW, IDS)).abs().max()
    assert (changed > 0.01) == (images != "same")


def test_prefilled_rollouts_have_the_log_probs_that_they_were_drawn_with(backbone):
    view = varied(VIEW, prefill="Size:")
    (rollout,) = generate(
        TransformersEngine(backbone), [view], example_ids=["x"], max_new_tokens=7, temperature=1.0, seed=2
    )
    assert logps(backbone, view, rollout.token_ids).tolist() == pytest.approx(
        list(rollout.logprobs), abs=1e-4
    )
    assert logps(backbone, VIEW, rollout.token_ids).tolist() != pytest.approx(
        list(rollout.logprobs), abs=1e-2
    )


def test_a_prefill_is_part_of_what_the_teacher_is_shown(backbone):
    before = taught(backbone, (R,), "span_only")
    after = taught(backbone, (R,), "span_only", varied(VIEW, prefill="Size:"))
    assert (before - after).abs().max() > 0.01


# -- what must agree ----------------------------------------------------------------------------------------------


def checked(mixture: Any = None, **changes: Any) -> list[str]:
    router = Router(layout=VigosLayout(), routes=(route(**changes),))
    mixture = mixture or only(FromStudent())
    return check_routes(router, mixture, mixture.origins)


def test_whole_distributions_may_come_from_anywhere():
    cut = FromStudent(sampling=Sampling(temperature=1.1, top_p=0.95, top_k=20))
    assert checked(on_policy_share(0.5, cut, FromDataSet())) == []


@pytest.mark.parametrize("estimator", [Sampled(as_="advantage"), PolicyGradient()], ids=str)
def test_single_samples_must_be_the_policys_own(estimator):
    assert checked(estimator=estimator) == []
    assert (
        checked(
            estimator=replace(estimator, temperature=0.7),
            mixture=only(FromStudent(sampling=Sampling(temperature=0.7))),
        )
        == []
    )
    with pytest.raises(
        PilotageError, match="'one': the estimator's temperature 1.0 is not the rollouts' 0.7"
    ):
        checked(only(FromStudent(sampling=Sampling(temperature=0.7))), estimator=estimator)
    (note,) = checked(only(FromStudent(sampling=Sampling(top_p=0.9))), estimator=estimator)
    assert "top_p 0.9" in note
    (note,) = checked(on_policy_share(0.5, FromStudent(), FromDataSet()), estimator=estimator)
    assert "dataset" in note


def test_a_remote_teacher_gives_single_samples_at_temperature_one():
    remote = Remote(url="http://localhost:8000/v1/completions", model="m")
    assert checked(weights=remote, estimator=PolicyGradient()) == []
    for estimator in (FULL, Sampled(as_="loss", temperature=0.5)):
        with pytest.raises(
            PilotageError, match="'one': a remote teacher.*instead of (FullVocabulary|Sampled)"
        ):
            checked(weights=remote, estimator=estimator)
