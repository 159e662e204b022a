"""What may be changed while a sweep runs: updates that refuse what makes no sense."""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from durabert.specs import SweepControl, SweepSpec
    from durabert.specs.sweep import MAX_CONCURRENCY, MAX_TRIALS


class SweepSteering:
    """The control of a sweep; ``changed`` is set by every update."""

    def __init__(self, spec: SweepSpec) -> None:
        self.spec = spec
        self.searching = True
        self.changed = False
        self.control = (
            spec.state.control
            if spec.state
            else SweepControl(concurrency=spec.concurrency, trials=spec.num_trials)
        )

    @workflow.update
    def set_paused(self, paused: bool) -> SweepControl:
        """Begin no training any more, or begin some again."""
        return self._set(paused=paused)

    @set_paused.validator
    def _can_set_paused(self, paused: bool) -> None:
        self._require_searching()
        if paused == self.control.paused:
            state = "paused already" if paused else "not paused"
            raise ApplicationError(f"sweep {self.spec.name!r} is {state}", type="RunNotUsable")

    @workflow.update
    def add_trials(self, number: int) -> SweepControl:
        """Train so many trials more."""
        return self._set(trials=self.control.trials + number)

    @add_trials.validator
    def _can_add_trials(self, number: int) -> None:
        self._require_searching()
        there, most = self.control.trials, MAX_TRIALS
        if self.spec.algorithm == "grid":
            most = min(most, self.spec.num_points())
        if number < 1 or there + number > most:
            raise ApplicationError(
                f"trials to add are {number}, but should be 1 to {most - there}: there are {there}, and at "
                f"most {most} can be"
                if there < most
                else f"no trial can be added: there are {there}, and at most {most} can be",
                type="SpecInvalid",
            )

    @workflow.update
    def set_concurrency(self, concurrency: int) -> SweepControl:
        """Train so many trials at once; those that are running go on."""
        return self._set(concurrency=concurrency)

    @set_concurrency.validator
    def _can_set_concurrency(self, concurrency: int) -> None:
        self._require_searching()
        if not 1 <= concurrency <= MAX_CONCURRENCY:
            raise ApplicationError(
                f"concurrency is {concurrency}, but should be 1 to {MAX_CONCURRENCY}", type="SpecInvalid"
            )

    def _require_searching(self) -> None:
        if not self.searching:
            raise ApplicationError(f"sweep {self.spec.name!r} has ended its search", type="RunNotUsable")

    def _set(self, **fields: bool | int) -> SweepControl:
        self.control = self.control.model_copy(update=fields)
        self.changed = True
        return self.control
