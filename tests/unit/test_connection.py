"""What goes over the wire."""

from __future__ import annotations

import pytest
from temporalio.service import GrpcCompression

from durabert.connection import _compression


@pytest.mark.parametrize("address", ["127.0.0.1:7233", "127.1.2.3:7233", "localhost:7233", "[::1]:7233"])
def test_nothing_is_compressed_within_a_machine(address):
    assert _compression(address) is GrpcCompression.NONE


@pytest.mark.parametrize(
    "address", ["127.example.org:7233", "10.0.0.1:7233", "localhost.example.org:7233", "[::12]:7233", ""]
)
def test_what_goes_to_another_machine_is_compressed(address):
    assert _compression(address) is GrpcCompression.GZIP
