"""A small training under injected faults, on an engine of its own: does it end as if nothing had happened?"""

from durabert.chaos.bench import Bench, Plan
from durabert.chaos.scenarios import SCENARIOS, Row, Scenario, chosen, disturbed, undisturbed

__all__ = ["SCENARIOS", "Bench", "Plan", "Row", "Scenario", "chosen", "disturbed", "undisturbed"]
