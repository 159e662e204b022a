"""Immutable artifacts. Knows neither the model side nor Temporal."""
