"""The version of durabert."""

__version__ = "0.1.0"
