"""A frame's head as bytes: `pack` writes it, and `unpack`, its inverse, reads and checks it.

Nothing is evaluated or unpickled; magic, version, checksum, dtypes and sizes are checked before
anything is allocated. The checksum covers the head; what protects the arrays is the channel's
encryption. What frames are stands in `frames`, and is handed on here for whoever needs both.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from math import prod

import numpy as np

from jsplit.wire.frames import (
    CARRIERS,
    KINDS,
    Accept,
    CodecError,
    Frame,
    Head,
    about,
    finite,
    frame_of,
    text_of,
)
from jsplit.wire.layout import (
    ARRAY,
    CHECKSUM,
    CODES,
    DTYPES,
    HEADER,
    KNOWN,
    LARGEST_HEAD,
    LARGEST_TEXT,
    MAGIC,
    MOST_ARRAYS,
    MOST_AXES,
    SEALED,
    VERSION,
    Shapes,
    check,
    size_of,
)

__all__ = [
    "CARRIERS",
    "DTYPES",
    "HEADER",
    "KINDS",
    "KNOWN",
    "LARGEST_HEAD",
    "LARGEST_TEXT",
    "Accept",
    "CodecError",
    "Frame",
    "Head",
    "Shapes",
    "about",
    "check",
    "checksum",
    "finite",
    "frame_of",
    "pack",
    "text_of",
    "unpack",
]


def pack(head: Head) -> bytes:
    """Write a head as bytes; `unpack` is the inverse.

    Raises:
        ValueError: if its arrays are such as no frame can carry.
    """
    check(head.shapes)
    descriptors = b"".join(
        ARRAY.pack(CODES[dtype], len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        for dtype, shape in head.shapes
    )
    header = HEADER.pack(
        MAGIC,
        VERSION,
        KINDS.index(head.kind),
        SEALED if head.sealed else 0,
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
        bytes(CHECKSUM),
    )
    # The checksum is over all of the head but itself, so it is cut off, computed and put back.
    fields = header[:-CHECKSUM]
    return fields + checksum(fields, descriptors) + descriptors


def checksum(header: bytes | memoryview, rest: bytes | memoryview) -> bytes:
    """Digest a head: the header without its checksum, and the descriptors of the arrays.

    It finds damage and other protocols on the port. It is no signature: anybody can compute it.
    """
    found = blake2b(header, digest_size=CHECKSUM, person=b"jsplit frame")
    found.update(rest)
    return found.digest()


def unpack(data: bytes | memoryview, limit: int) -> Head:
    """Read the head that stands at the beginning of `data`; `pack` is the inverse.

    Args:
        data: at least a whole head; what follows it is not looked at.
        limit: the most bytes that its arrays may take.

    Returns:
        The head.

    Raises:
        CodecError: if no head stands there, or one of arrays beyond the limit.
    """
    data = memoryview(data)
    if len(data) < HEADER.size:
        raise CodecError(f"a frame begins with {HEADER.size} bytes, got {len(data)}.")
    fields = HEADER.unpack_from(data)
    magic, version, kind, flags, zero, *_, count, size, digest = fields
    _check_header(magic, version, kind, flags, zero, count, size, limit)
    shapes, end = _shapes_at(data, HEADER.size, count)

    # Only now: the checksum is over the descriptors too, and where these end only they say.
    # Until here they were read within bounds, and nothing was done by what they say.
    if checksum(data[: HEADER.size - CHECKSUM], data[HEADER.size : end]) != digest:
        raise CodecError("the checksum of a frame's head does not fit.")
    total = size_of(shapes)
    if total != size:
        raise CodecError(
            f"the arrays of a frame take {total} bytes, its header says {size}."
        )
    # An axis of 0 makes any other axis take no bytes, so the limit does not see it. NumPy cannot
    # hold a shape whose other axes multiply to more than an address; a bound with room to spare
    # (itemsize is at most 16) keeps that from being an error of another kind later.
    if any(prod(n or 1 for n in shape) >= 1 << 58 for _, shape in shapes):
        raise CodecError("an array has an axis that no array can have.")

    run, epoch, instance, step, micro, value, sender, receiver = fields[5:13]
    return Head(
        kind=KINDS[int(kind)],
        run=run,
        epoch=epoch,
        instance=instance,
        sender=sender,
        receiver=receiver,
        step=step,
        micro=micro,
        value=value,
        shapes=shapes,
        sealed=bool(flags & SEALED),
    )


def _check_header(
    magic: bytes,
    version: int,
    kind: int,
    flags: int,
    zero: int,
    count: int,
    size: int,
    limit: int,
) -> None:
    """Refuse a header by its fields alone, before its descriptors are read."""
    if magic != MAGIC:
        raise CodecError(f"a frame begins with {MAGIC!r}, got {magic!r}.")
    # Before all other fields: another version may give them another meaning.
    if version != VERSION:
        raise CodecError(
            f"version {version} of the protocol came, this is version {VERSION}."
        )
    if kind >= len(KINDS) or flags > SEALED or zero or count > MOST_ARRAYS:
        raise CodecError(
            f"a frame has the kind {kind}, the flags {flags}, {count} arrays: "
            "there is no such frame."
        )
    if size > limit:
        raise CodecError(
            f"a frame of {size} bytes came, at most {limit} were agreed upon."
        )


def _shapes_at(data: memoryview, at: int, count: int) -> tuple[Shapes, int]:
    """Read `count` descriptors from `at` on; gives dtypes and shapes, and where they end."""
    shapes: list[tuple[np.dtype, tuple[int, ...]]] = []
    for _ in range(count):
        if len(data) < at + ARRAY.size:
            raise CodecError("a frame ends within its head.")
        code: int
        axes: int
        code, axes = ARRAY.unpack_from(data, at)
        at += ARRAY.size
        # The 6 bytes of padding must be 0, so that every head has exactly one form in bytes.
        if code >= len(KNOWN) or axes > MOST_AXES or any(data[at - 6 : at]):
            raise CodecError(
                f"an array has the dtype {code} and {axes} axes: "
                "there is no such array."
            )
        if len(data) < at + 8 * axes:
            raise CodecError("a frame ends within its head.")
        shapes.append((KNOWN[code], struct.unpack_from(f"<{axes}Q", data, at)))
        at += 8 * axes
    return tuple(shapes), at
