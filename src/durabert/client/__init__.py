"""Start and follow runs, from anywhere that reaches the Temporal server. Needs no torch."""

from durabert.client.client import Client
from durabert.client.views import ExperimentView, RunView, SweepView

__all__ = ["Client", "ExperimentView", "RunView", "SweepView"]
