"""Frames to bytes and back, whole or in chunks: the head, and then the arrays as they lie in memory.

`decode` undoes `encode`, and an `Assembler` undoes `split_up`. Nothing is allocated before the head has been checked, by
itself and by whatever the receiver has agreed to.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from jsplit.wire.codec import (
    CARRIERS,
    LARGEST_TEXT,
    Accept,
    CodecError,
    Frame,
    Head,
    pack,
    unpack,
)

_ALIGNED = 64


def encode(frame: Frame) -> list[bytes | memoryview]:
    """The buffers that make up a frame, in order; the arrays are not copied."""
    return [pack(frame.head), *[_raw(x) for x in frame.arrays if x.nbytes]]


def _raw(array: np.ndarray) -> memoryview:
    """The bytes of a contiguous array of any dtype."""
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def split_up(frame: Frame, chunk: int) -> Iterator[bytes]:
    """A frame as chunks, each made when it is asked for: the head and what fits beside it, then the rest. `Assembler` is the
    inverse."""
    head, *buffers = encode(frame)
    room, parts = max(chunk, len(head)) - len(head), [head]
    for buffer in buffers:
        at = 0
        while at < len(buffer):
            if not room:
                yield b"".join(parts)
                room, parts = chunk, []
            part = buffer[at : at + room]
            parts.append(part)
            at, room = at + len(part), room - len(part)
    yield b"".join(parts)


class Assembler:
    """Frames from the chunks in which they come: `feed(chunk)` gives the frame that is whole with it, or `None`.

    Every frame has a buffer of its own, since arrays that were received may be used without a copy.

    Args:
        limit: the most bytes that the arrays of one frame may take.
        accept: asked for every head, before its buffer is allocated.
    """

    def __init__(self, limit: int, accept: Accept = lambda head: None):
        self.limit, self.accept = limit, accept
        self.head: Head | None = None
        self.body, self.at = _aligned(0), 0

    def feed(self, chunk: bytes | memoryview) -> Frame | None:
        rest = memoryview(chunk)
        if self.head is None:
            head = unpack(rest, self.limit)
            if head.kind not in CARRIERS and head.size > LARGEST_TEXT:
                raise CodecError(
                    f"a frame of the kind {head.kind} has {head.size} bytes, at most {LARGEST_TEXT} are read."
                )
            self.accept(head)
            self.head, self.body, self.at = head, _aligned(head.size), 0
            rest = rest[head.bytes :]
        if self.at + len(rest) > len(self.body):
            raise CodecError(
                f"{self.at + len(rest)} bytes came for a frame of {len(self.body)}."
            )
        self.body[self.at : self.at + len(rest)] = rest
        self.at += len(rest)
        if self.at < len(self.body):
            return None
        frame = Frame(self.head, _arrays_of(self.head, self.body))
        self.head = None
        return frame


def _aligned(size: int) -> memoryview:
    """So many bytes of new memory, laid so that JAX can use arrays in it without a copy."""
    memory = np.empty(size + _ALIGNED, np.uint8)
    first = -memory.ctypes.data % _ALIGNED
    return memoryview(memory[first : first + size])  # type: ignore[arg-type]


def _arrays_of(head: Head, body: memoryview) -> tuple[np.ndarray, ...]:
    """The arrays that lie in a body; those whose place does not suit their dtype are copied."""
    arrays, at = [], 0
    for dtype, shape in head.shapes:
        size = prod(shape) * dtype.itemsize
        part = (
            np.frombuffer(body, np.uint8, size, at) if size else np.empty(0, np.uint8)
        )
        if dtype.kind == "b" and size and part.max() > 1:
            raise CodecError("an array of bool holds other bytes than 0 and 1.")
        part = part.copy() if at % max(dtype.alignment, 1) else part
        arrays.append(part.view(dtype).reshape(shape))
        at += size
    return tuple(arrays)


def decode(
    data: bytes | memoryview, limit: int, accept: Accept = lambda head: None
) -> Frame:
    """The frame that `data` holds; the inverse of `encode`.

    Raises:
        CodecError: if `data` is not exactly one frame, or one beyond the limit.
    """
    frame = Assembler(limit, accept).feed(data)
    if frame is None:
        raise CodecError(f"a frame ends after {len(data)} bytes.")
    return frame
