"""What a frame is, and its head as bytes: a fixed header, and one descriptor for each array that follows.

`unpack` undoes `pack`. Nothing is evaluated or unpickled; magic, version, checksum, dtypes and sizes are checked before
anything is allocated. The checksum covers the head; what protects the arrays is the channel's encryption.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np

_MAGIC, _VERSION = b"jspl", 1
KINDS = (
    "hello",
    "start",
    "sync",
    "checkpoint",
    "committed",
    "bye",
    "refusal",
    "key",
    "activation",
    "cotangent",
    "weights",
)
CARRIERS = ("activation", "cotangent", "weights")
"""The kinds that carry values; the body of all others is JSON."""
DTYPES = (
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
    "complex64",
    "complex128",
    "bfloat16",
    "float8_e3m4",
    "float8_e4m3",
    "float8_e4m3b11fnuz",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
)
_CODES = {
    jnp.dtype(getattr(jnp, name + "_" if name == "bool" else name)): code
    for code, name in enumerate(DTYPES)
}
KNOWN = tuple(_CODES)
HEADER = struct.Struct("<4s4B32sQQQIHHHHQ12s")
"""Magic; version, kind, flags, 0; run; epoch; instance; step; micro; value; sender; receiver; arrays; size; checksum."""
_ARRAY = struct.Struct("<2B6x")
"""Of one array: dtype, number of axes; then 8 bytes for each axis."""
_MOST_ARRAYS, _MOST_AXES = 1 << 14, 16
LARGEST_HEAD = HEADER.size + _MOST_ARRAYS * (_ARRAY.size + 8 * _MOST_AXES)
"""Bytes of a head: about 2.2 MB, which a party takes for a frame before it knows whether it wants it."""
LARGEST_TEXT = 1 << 20
"""Bytes of a body of JSON."""
_SEALED = 1
_RUN = 32
_NO_RUN = bytes(_RUN)

Shapes = tuple[tuple[np.dtype, tuple[int, ...]], ...]


class CodecError(ValueError):
    """Bytes that are no frame, or none that was agreed upon. It says what was expected and what came."""


@dataclass(frozen=True)
class Head:
    """Which frame it is, and the dtypes and shapes of what it carries.

    Attributes:
        kind: one of `KINDS`.
        run: hash of what the parties agreed upon.
        epoch: how often the run has been begun or rolled back; a frame of another epoch is never applied.
        instance: of the sender's process, drawn when it starts.
        sender, receiver: parties, by their place in the agreement.
        step, micro, value: which crossing it is, and in which step and micro-batch.
        shapes: dtype and shape of every array.
        sealed: whether the arrays are encrypted for the receiver, and cannot be read on the way.
    """

    kind: str
    run: bytes = _NO_RUN
    epoch: int = 0
    instance: int = 0
    sender: int = 0
    receiver: int = 0
    step: int = 0
    micro: int = 0
    value: int = 0
    shapes: Shapes = ()
    sealed: bool = False

    @property
    def size(self) -> int:
        """Bytes of all arrays."""
        return sum(prod(shape) * dtype.itemsize for dtype, shape in self.shapes)

    @property
    def bytes(self) -> int:
        """Bytes of the head itself: 96, and for each array 8 and 8 for each axis."""
        return HEADER.size + sum(
            _ARRAY.size + 8 * len(shape) for _, shape in self.shapes
        )

    def id(self) -> tuple:
        """What tells a repeated frame from a new one."""
        return (
            self.run,
            self.epoch,
            self.sender,
            self.receiver,
            self.kind,
            self.value,
            self.step,
            self.micro,
        )


@dataclass(frozen=True)
class Frame:
    """A message: its head, and its arrays."""

    head: Head
    arrays: tuple[np.ndarray, ...] = ()


Accept = Callable[[Head], Any]
"""Raises if a frame with this head is not wanted; asked before anything is allocated for its arrays."""


def frame_of(head: Head, arrays: Sequence[Any]) -> Frame:
    """A frame that carries `arrays`; its head says their dtypes and shapes."""
    given: list[np.ndarray] = []
    shapes: list[tuple[np.dtype, tuple[int, ...]]] = []
    # A plain loop: it runs for every frame, and a generator would call for every array.
    for value in arrays:
        array = np.asarray(value)
        # `ascontiguousarray` alone would make an array of one axis of one that has none.
        if not array.flags.c_contiguous:
            array = np.ascontiguousarray(array)
        given.append(array)
        shapes.append((array.dtype, array.shape))
    return Frame(replace(head, shapes=tuple(shapes)), tuple(given))


def text_of(head: Head, about: Mapping[str, Any]) -> Frame:
    """A frame whose body is JSON; `about` is the inverse."""
    data = json.dumps(about, sort_keys=True, separators=(",", ":")).encode()
    if len(data) > LARGEST_TEXT:
        raise ValueError(
            f"`about` takes {len(data)} bytes, at most {LARGEST_TEXT} can be sent."
        )
    return frame_of(head, [np.frombuffer(data, np.uint8)])


def about(frame: Frame) -> dict[str, Any]:
    """What a frame of JSON says.

    Raises:
        CodecError: if it holds no JSON object.
    """
    try:
        found = json.loads(frame.arrays[0].tobytes().decode())
    except (ValueError, IndexError, RecursionError) as error:
        raise CodecError(
            f"a frame of the kind {frame.head.kind} must hold JSON: {type(error).__name__}."
        ) from None
    if not isinstance(found, dict):
        raise CodecError(
            f"a frame of the kind {frame.head.kind} must hold a JSON object, got {type(found).__name__}."
        )
    return found


def check(shapes: Shapes, what: str = "`arrays`") -> None:
    """Refuse what no frame can carry.

    Raises:
        ValueError: saying so of `what`.
    """
    if len(shapes) > _MOST_ARRAYS:
        raise ValueError(
            f"{what} must be at most {_MOST_ARRAYS} arrays, got {len(shapes)}."
        )
    for dtype, shape in shapes:
        if dtype not in _CODES or len(shape) > _MOST_AXES:
            raise ValueError(
                f"{what} holds {dtype}{list(shape)}, which has no form on the wire."
            )


def pack(head: Head) -> bytes:
    """The head as bytes; `unpack` is the inverse."""
    check(head.shapes)
    rows = [
        _ARRAY.pack(_CODES[dtype], len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        for dtype, shape in head.shapes
    ]
    fields = (
        _MAGIC,
        _VERSION,
        KINDS.index(head.kind),
        _SEALED * head.sealed,
        0,
        head.run,
        head.epoch,
        head.instance,
        head.step,
        head.micro,
        head.value,
        head.sender,
        head.receiver,
        len(head.shapes),
        head.size,
    )
    rest, open_head = b"".join(rows), HEADER.pack(*fields, bytes(12))[:-12]
    return open_head + checksum(open_head, rest) + rest


def checksum(header: bytes | memoryview, rest: bytes | memoryview) -> bytes:
    found = blake2b(header, digest_size=12, person=b"jsplit frame")
    found.update(rest)
    return found.digest()


def unpack(data: bytes | memoryview, limit: int) -> Head:
    """The head that stands at the beginning of `data`.

    Args:
        data: at least a whole head.
        limit: the most bytes that its arrays may take.

    Raises:
        CodecError: if no head stands there, or one of arrays beyond the limit.
    """
    data = memoryview(data)
    if len(data) < HEADER.size:
        raise CodecError(f"a frame begins with {HEADER.size} bytes, got {len(data)}.")
    (
        magic,
        version,
        kind,
        flags,
        zero,
        run,
        epoch,
        instance,
        step,
        micro,
        value,
        sender,
        receiver,
        arrays,
        size,
        check,
    ) = HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise CodecError(f"a frame begins with {_MAGIC!r}, got {magic!r}.")
    if version != _VERSION:
        raise CodecError(
            f"version {version} of the protocol came, this is version {_VERSION}."
        )
    if kind >= len(KINDS) or flags > _SEALED or zero or arrays > _MOST_ARRAYS:
        raise CodecError(
            f"a frame has the kind {kind}, the flags {flags}, {arrays} arrays: there is no such frame."
        )
    if size > limit:
        raise CodecError(
            f"a frame of {size} bytes came, at most {limit} were agreed upon."
        )
    at, shapes, total = HEADER.size, [], 0
    for _ in range(arrays):
        if len(data) < at + _ARRAY.size:
            raise CodecError("a frame ends within its head.")
        code, axes = _ARRAY.unpack_from(data, at)
        at += _ARRAY.size
        if code >= len(KNOWN) or axes > _MOST_AXES or any(data[at - 6 : at]):
            raise CodecError(
                f"an array has the dtype {code} and {axes} axes: there is no such array."
            )
        if len(data) < at + 8 * axes:
            raise CodecError("a frame ends within its head.")
        shape = struct.unpack_from(f"<{axes}Q", data, at)
        at += 8 * axes
        total += prod(shape) * KNOWN[code].itemsize
        shapes.append((KNOWN[code], shape))
    if checksum(data[: HEADER.size - 12], data[HEADER.size : at]) != check:
        raise CodecError("the checksum of a frame's head does not fit.")
    if total != size:
        raise CodecError(
            f"the arrays of a frame take {total} bytes, its header says {size}."
        )
    if any(prod(n or 1 for n in shape) >= 1 << 58 for _, shape in shapes):
        raise CodecError("an array has an axis that no array can have.")
    return Head(
        KINDS[kind],
        run,
        epoch,
        instance,
        sender,
        receiver,
        step,
        micro,
        value,
        tuple(shapes),
        bool(flags & _SEALED),
    )


def bytes_on_the_wire(arrays: Sequence[np.ndarray]) -> int:
    """Bytes of the frame that carries some arrays, head and all."""
    size = HEADER.size
    # A plain loop: it runs for every frame, and a generator would call for every array.
    for array in arrays:
        size += _ARRAY.size + 8 * array.ndim + array.nbytes
    return size


def finite(arrays: Sequence[np.ndarray]) -> bool:
    """Whether no array holds NaN or an infinite value."""
    return all(
        bool(np.isfinite(x).all())
        for x in arrays
        if jnp.issubdtype(x.dtype, jnp.inexact)
    )
