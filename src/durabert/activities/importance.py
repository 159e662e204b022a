"""How much each searched parameter decides on the metric, by Optuna: never loaded by a client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from durabert.activities.suggesting import require_optuna
from durabert.specs import LOWER_IS_BETTER, KnownTrial

if TYPE_CHECKING:
    from durabert.specs import SweepSpec, TrialRecord

FEWEST_TRIALS: Final = 10
"""With fewer, a forest tells more about chance than about the parameters."""
SEED: Final = 0
"""Of the forest: the same trials have the same importance."""


@dataclass(frozen=True)
class Importance:
    """Shares of the differences between trials that each parameter explains."""

    about: str
    """What was compared, or why there are no shares."""
    shares: dict[str, float] = field(default_factory=dict)
    """By parameter, the largest first; they add up to one."""


def importance(spec: SweepSpec, trials: Sequence[TrialRecord], metric: str | None) -> Importance:
    """Return how much each parameter decides on the metric.

    Trials are compared after the same number of epochs, so that one that was stopped early does not look bad
    for that alone. Parameters that some of these trials do not have are left out.

    Source:
        Functional ANOVA over a forest: Hutter, Hoos and Leyton-Brown 2014, An efficient approach for
        assessing hyperparameter importance.

    Raises:
        DependencyMissing: Optuna is not installed.
    """
    epochs = _compared_epochs(spec)
    lower = metric in LOWER_IS_BETTER
    known = [found for trial in trials if (found := _known(trial, epochs, lower)) is not None]
    what = "at their end" if epochs is None else f"after {epochs} epoch{'s' if epochs > 1 else ''}"
    if len(known) < FEWEST_TRIALS:
        return Importance(
            f"How much each parameter decides is told from {FEWEST_TRIALS} trials on; {len(known)} can be "
            f"compared {what}."
        )
    if len({one.value for one in known}) == 1:
        return Importance(f"All trials have the same value {what}: no parameter decides on it.")
    common = [name for name in spec.space if all(name in one.params for one in known)]
    if len(common) < 2:
        return Importance("Fewer than two parameters are in every trial: there is nothing to compare.")
    return Importance(
        f"Shares of the differences between {len(known)} trials {what} that each parameter explains, the "
        "others averaged (functional ANOVA over a forest). Few trials tell it roughly.",
        _shares(spec, known, common, lower),
    )


def _compared_epochs(spec: SweepSpec) -> int | None:
    if "epochs" in spec.space:
        return None
    return spec.config.epochs if spec.stopping == "none" else spec.min_epochs


def _known(trial: TrialRecord, epochs: int | None, lower: bool) -> KnownTrial | None:
    values = trial.values[:epochs]
    # A training that stopped by its own patience is at its end with fewer.
    enough = trial.status == "completed" or (epochs is not None and len(values) == epochs)
    if not values or not enough:
        return None
    best = min(values) if lower else max(values)
    return KnownTrial(params=trial.params, epochs=len(values), value=best, complete=True)


def _shares(spec: SweepSpec, known: Sequence[KnownTrial], names: list[str], lower: bool) -> dict[str, float]:
    require_optuna()
    from durabert.activities.studies import study_of

    study = study_of(spec.space, known, lower_is_better=lower)
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    evaluator = FanovaImportanceEvaluator(seed=SEED)
    found = get_param_importances(study, evaluator=evaluator, params=names)
    return {name: float(share) for name, share in found.items()}
