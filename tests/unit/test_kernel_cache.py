"""A kernel that is kept on disk is the one that the files say."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

import durabert.bert
from durabert.bert import adamw, attention_kernels, kernel_cache, kernels

PART = """
from numba.extending import register_jitable
@register_jitable
def number():
    return {number}
"""
KERNEL = """
from numba import njit
from part import number
@njit(cache=True)
def kernel():
    return number()
"""


@pytest.fixture
def sources(tmp_path, monkeypatch):
    files = [tmp_path / "part.py", tmp_path / "kernel.py"]
    monkeypatch.setattr(kernel_cache, "SOURCES", set(files))
    monkeypatch.syspath_prepend(tmp_path)
    return files


def imported_anew(monkeypatch):
    for name in ("part", "kernel"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    importlib.invalidate_caches()
    return importlib.import_module("kernel").kernel


def test_a_kernel_is_compiled_again_when_a_function_of_another_file_has_changed(sources, monkeypatch):
    part, whole = sources
    whole.write_text(KERNEL)
    part.write_text(PART.format(number=1))
    assert imported_anew(monkeypatch)() == 1

    kept = imported_anew(monkeypatch)
    assert kept() == 1
    assert (kept.stats.cache_hits.total(), kept.stats.cache_misses.total()) == (1, 0)

    # Of another length: Python tells a file that has changed by its time in seconds and its length.
    part.write_text(PART.format(number=22))
    assert imported_anew(monkeypatch)() == 22


def test_the_kernels_are_kept_so():
    for kernel in (adamw._move_all, attention_kernels.attend, kernels.draw):
        assert isinstance(kernel._cache._impl.locator, kernel_cache.KernelLocator)


def test_every_file_that_kernels_are_made_of_counts():
    compiled = re.compile(r"@(njit|intrinsic|register_jitable|overload)\b")
    files = Path(durabert.bert.__file__).parent.glob("*.py")
    assert {file for file in files if compiled.search(file.read_text())} == kernel_cache.SOURCES
