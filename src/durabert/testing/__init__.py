"""What a test of one's own set-up can use: the contract that every store keeps."""

from durabert.testing.store import StoreContract

__all__ = ["StoreContract"]
