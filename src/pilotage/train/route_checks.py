"""What must agree between routes, their teachers' weights and the rollouts, checked before anything heavy begins."""

from __future__ import annotations

from collections.abc import Collection

from pilotage.distill.estimators import Sampled
from pilotage.distill.policy_gradient import PolicyGradient
from pilotage.distill.routes import Router, is_likelihood
from pilotage.errors import PilotageError
from pilotage.rollouts.sources import FromStudent, Mixture
from pilotage.train.teachers import Remote


def check_routes(router: Router, mixture: Mixture, origins: Collection[str]) -> list[str]:
    """Raises PilotageError for what cannot be; returns, as sentences for the log, what can and is worth knowing.

    `origins` are all that rollouts may have.
    """
    notes: list[str] = []
    student = [source.sampling for source in mixture.sources if isinstance(source, FromStudent)]
    for route in router.routes:
        one_sample = isinstance(route.estimator, Sampled | PolicyGradient)
        if isinstance(route.weights, Remote) and (not one_sample or route.estimator.temperature != 1.0):
            raise PilotageError(
                f"route {route.name!r}: a remote teacher gives the sampled token's log-probability at temperature 1 "
                f"and no more; take Sampled or PolicyGradient at it instead of {type(route.estimator).__name__}"
            )
        if is_likelihood(route.estimator):
            if "student" in origins and route.written_by in ("all", "student"):
                raise PilotageError(
                    f"route {route.name!r}: the likelihood of the student's own answers teaches nothing; take it of "
                    "references (relabel, or a data set as the source) or of a teacher's answers (written_by)"
                )
            continue
        if not one_sample:
            continue
        for sampling in student:
            if sampling.temperature != route.estimator.temperature:
                raise PilotageError(
                    f"route {route.name!r}: the estimator's temperature {route.estimator.temperature} is not the "
                    f"rollouts' {sampling.temperature}: one-sample estimates hold for the policy that drew the samples"
                )
            if not sampling.is_exact:
                notes.append(
                    f"route {route.name!r} takes single samples for the policy's own, but top_p {sampling.top_p} and "
                    f"top_k {sampling.top_k} cut its distribution: its estimate is biased"
                )
        others = {name for name in origins if route.written_by in ("all", name)} - {"student"}
        if others := sorted(others):
            notes.append(
                f"route {route.name!r} takes single samples for the policy's own, but some come from "
                f"{', '.join(others)}: its estimate is biased there"
            )
    return notes
