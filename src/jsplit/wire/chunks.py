"""Frames to bytes and back, whole or in chunks: the head, then the arrays as they lie in memory.

`decode` undoes `encode`, and an `Assembler` undoes `split_up`. Nothing is allocated before the
head has been checked, by itself and by whatever the receiver has agreed to.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from jsplit.wire.codec import pack, unpack
from jsplit.wire.frames import CARRIERS, Accept, CodecError, Frame, Head
from jsplit.wire.layout import LARGEST_TEXT

# What XLA's CPU client asks of memory that it uses in place. Less, and `jax.device_put` copies.
_ALIGNED = 64


def encode(frame: Frame) -> list[bytes | memoryview]:
    """Give the buffers that make up a frame, in order; the arrays are not copied.

    `decode` is the inverse of joining them.
    """
    # A memoryview of no bytes is refused by some writers, and says nothing.
    return [pack(frame.head), *[_raw(x) for x in frame.arrays if x.nbytes]]


def _raw(array: np.ndarray) -> memoryview:
    """The bytes of a contiguous array of any dtype."""
    # By way of uint8: the buffer protocol has no format for bfloat16 and the eight-bit floats.
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def split_up(frame: Frame, chunk: int) -> Iterator[bytes]:
    """Give a frame in chunks, each made when it is asked for; `Assembler` is the inverse.

    The first holds the head and what fits beside it. A head is never divided, however small a
    chunk is, so whoever assembles can check it at once.

    Args:
        frame: the frame.
        chunk: bytes of one chunk, at most.

    Returns:
        An iterator over the chunks.
    """
    head, *buffers = encode(frame)
    parts = [head]
    room = max(chunk, len(head)) - len(head)
    for buffer in buffers:
        at = 0
        while at < len(buffer):
            if not room:
                yield b"".join(parts)
                parts, room = [], chunk
            part = buffer[at : at + room]
            parts.append(part)
            at += len(part)
            room -= len(part)
    # Not within the loop: a frame without arrays is its head alone, and is sent too.
    yield b"".join(parts)


class Assembler:
    """Frames from the chunks in which they come, one after the other.

    Args:
        limit: the most bytes that the arrays of one frame may take.
        accept: asked for every head, before its buffer is allocated; it raises if the frame is
            not wanted.
    """

    def __init__(self, limit: int, accept: Accept = lambda head: None):
        self.limit = limit
        self.accept = accept
        self.head: Head | None = None
        self.body = _aligned(0)
        self.at = 0

    def feed(self, chunk: bytes | memoryview) -> Frame | None:
        """Take the next chunk; gives the frame that is whole with it, or `None`.

        Raises:
            CodecError: if it does not go on with a frame, or begins none.
        """
        rest = memoryview(chunk)
        if self.head is None:
            head = unpack(rest, self.limit)
            if head.kind not in CARRIERS and head.size > LARGEST_TEXT:
                raise CodecError(
                    f"a frame of the kind {head.kind} has {head.size} bytes, "
                    f"at most {LARGEST_TEXT} are read."
                )
            self.accept(head)
            # Every frame has a buffer of its own: the arrays that come out are views of it, and
            # may be in use, without a copy, long after the next frame has come.
            self.head, self.body, self.at = head, _aligned(head.size), 0
            rest = rest[head.bytes :]
        end = self.at + len(rest)
        if end > len(self.body):
            raise CodecError(f"{end} bytes came for a frame of {len(self.body)}.")
        self.body[self.at : end] = rest
        self.at = end
        if self.at < len(self.body):
            return None
        frame = Frame(self.head, _arrays_of(self.head, self.body))
        self.head = None
        return frame


def _aligned(size: int) -> memoryview:
    """So many bytes of new memory, laid so that JAX can use arrays in it without a copy."""
    # NumPy aligns to 16 bytes only. So there is more memory than needed, and it begins at the
    # first suitable place.
    memory = np.empty(size + _ALIGNED, np.uint8)
    first = -memory.ctypes.data % _ALIGNED
    return memoryview(memory[first : first + size])  # type: ignore[arg-type]


def _arrays_of(head: Head, body: memoryview) -> tuple[np.ndarray, ...]:
    """The arrays that lie in a body; those whose place does not suit their dtype are copied."""
    arrays: list[np.ndarray] = []
    at = 0
    for dtype, shape in head.shapes:
        size = prod(shape) * dtype.itemsize
        # `frombuffer` refuses to read nothing.
        part = np.empty(0, np.uint8)
        if size:
            part = np.frombuffer(body, np.uint8, size, at)
        # Any other byte would be a truth value that compares as neither true nor false.
        if dtype.kind == "b" and size and part.max() > 1:
            raise CodecError("an array of bool holds other bytes than 0 and 1.")
        # Arrays follow each other without padding: after 3 bytes of int8, a float32 lies where
        # no processor wants it.
        if at % max(dtype.alignment, 1):
            part = part.copy()
        arrays.append(part.view(dtype).reshape(shape))
        at += size
    return tuple(arrays)


def decode(
    data: bytes | memoryview, limit: int, accept: Accept = lambda head: None
) -> Frame:
    """Read the frame that `data` holds; the inverse of `encode`.

    Args:
        data: the bytes of exactly one frame.
        limit: the most bytes that its arrays may take.
        accept: asked for its head, before its buffer is allocated.

    Returns:
        The frame; its arrays are of its own.

    Raises:
        CodecError: if `data` is not exactly one frame, or one beyond the limit.
    """
    frame = Assembler(limit, accept).feed(data)
    if frame is None:
        raise CodecError(f"a frame ends after {len(data)} bytes.")
    return frame
