"""Tensors in memory as the safetensors files that they are stored as, so that storing them copies nothing.

A group of tensors, ``model`` say, is the files ``model-0000.safetensors``, ``model-0001.safetensors`` and so
on: files of bounded size, each with its tensors in sorted order. Equal tensors give equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
import torch

PART_BYTES: Final = 64 * 2**20
"""Size at which a file is closed."""
PAGE_BYTES: Final = 4096
"""A file begins where a page does: from there it goes to a disk without a copy in between."""

Tensors = dict[str, torch.Tensor]
Shape = tuple[torch.Size, torch.dtype]
Shapes = Mapping[str, Shape]

DTYPES: Final = {
    torch.int64: "I64", torch.float64: "F64", torch.float32: "F32", torch.int32: "I32",
    torch.bfloat16: "BF16", torch.float16: "F16", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip
"""Names of the safetensors format, in its own order: the widest first, so that each tensor is aligned."""


class TensorFiles:
    """The files of a group of tensors, and the tensors in them, on the CPU.

    Args:
        group: what the names of the files begin with.
        shapes: shape and type of each tensor.
    """

    def __init__(self, group: str, shapes: Shapes) -> None:
        self.group = group
        self.shapes = dict(shapes)
        self.files: list[tuple[str, memoryview]] = []
        """Names and contents."""
        self.tensors: Tensors = {}
        """Views of the contents."""
        for name, part in _parts(group, shapes):
            header, places = _header({tensor: shapes[tensor] for tensor in part})
            memory = _pages(len(header) + max((end for _, end in places.values()), default=0))
            memory[: len(header)] = np.frombuffer(header, np.uint8)
            for tensor, (begin, end) in places.items():
                shape, dtype = shapes[tensor]
                content = torch.from_numpy(memory[len(header) + begin : len(header) + end])
                self.tensors[tensor] = content.view(dtype).view(shape)
            self.files.append((name, memory.data))

    @classmethod
    def of(cls, group: str, tensors: Mapping[str, torch.Tensor]) -> TensorFiles:
        """Return the files of a copy of tensors."""
        files = cls(group, shapes_of(tensors))
        files.take(tensors)
        return files

    def __deepcopy__(self, _: object) -> TensorFiles:
        return TensorFiles.of(self.group, self.tensors)

    def take(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copy tensors of the same names and shapes."""
        for name, tensor in tensors.items():
            self.tensors[name].copy_(tensor.detach())


def shapes_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, Shape]:
    """Return shape and type of each tensor."""
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _pages(size: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """Return memory that begins where a page does, all of it at hand."""
    # Not by torch: what it does with threads of its own gives them to a thread that calls this, too, and
    # threads that are more than the cores do not wait for each other in the processor, but in the kernel.
    space = np.empty(size + PAGE_BYTES, np.uint8)
    begin = -space.ctypes.data % PAGE_BYTES
    memory = space[begin : begin + size]
    # The kernel makes a page when it is first written to, which is not to be in the way of the first copy.
    memory[::PAGE_BYTES] = 0
    return memory


def _parts(group: str, shapes: Shapes) -> Iterator[tuple[str, list[str]]]:
    """Yield the files of a group with the names of their tensors."""
    part: list[str] = []
    size = number = 0
    for name in sorted(shapes):
        if part and size + _size(shapes[name]) > PART_BYTES:
            yield f"{group}-{number:04}.safetensors", part
            part, size, number = [], 0, number + 1
        part.append(name)
        size += _size(shapes[name])
    yield f"{group}-{number:04}.safetensors", part


def _header(shapes: Shapes) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """Return what a safetensors file begins with, and where after that each tensor begins and ends.

    Source:
        https://github.com/huggingface/safetensors#format; the bytes are those of ``safetensors.torch.save``.
    """
    ranks = {dtype: rank for rank, dtype in enumerate(DTYPES)}
    described: dict[str, object] = {}
    places: dict[str, tuple[int, int]] = {}
    end = 0
    for name in sorted(shapes, key=lambda name: (ranks[shapes[name][1]], name)):
        shape, dtype = shapes[name]
        begin, end = end, end + _size(shapes[name])
        places[name] = (begin, end)
        described[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, places


def _size(shape: Shape) -> int:
    return shape[0].numel() * shape[1].itemsize
