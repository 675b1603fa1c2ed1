"""How a head lies in bytes: the fixed header, an array's descriptor, dtypes by number, and limits.

A new dtype goes to the end of `DTYPES`; another order or width of a field, or another order of
crossings, is another `VERSION`.
What a head means is said in `frames`; `codec` writes and reads it by these tables.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from math import prod

import jax.numpy as jnp
import numpy as np

MAGIC = b"jspl"
VERSION = 2

# A dtype's code is its place here. Old parties know the old places, so the order never changes.
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

Shapes = tuple[tuple[np.dtype, tuple[int, ...]], ...]
"""Dtype and shape of every array of a frame, in order."""


def _dtype_named(name: str) -> np.dtype:
    # Names and not character codes or sizes: bfloat16 and the eight-bit floats have the same
    # size and kind as others, and NumPy knows them only as `jax.numpy` registers them.
    return jnp.dtype(getattr(jnp, "bool_" if name == "bool" else name))


KNOWN: tuple[np.dtype, ...] = tuple(_dtype_named(name) for name in DTYPES)
CODES = {dtype: code for code, dtype in enumerate(KNOWN)}

HEADER = struct.Struct("<4s4B32sQQQIHHHHQ12s")
"""Magic; version, kind, flags, 0; run; epoch; instance; step; micro; value; sender; receiver;
number of arrays; bytes of all arrays; checksum."""

ARRAY = struct.Struct("<2B6x")
"""Of one array: dtype, number of axes; then 8 bytes for each axis."""

CHECKSUM = 12
"""Bytes of the checksum, the last of the header."""

SEALED = 1
"""The only flag: the arrays are encrypted for the receiver."""

RUN = 32
"""Bytes of the hash of an agreement."""

# Limits are part of the layout: a receiver reads so much of a head before it knows anything of
# who sent it, and no more.
MOST_ARRAYS = 1 << 14
MOST_AXES = 16

LARGEST_HEAD = HEADER.size + MOST_ARRAYS * (ARRAY.size + 8 * MOST_AXES)
"""Bytes of a head, at most: about 2.2 MB, which a party takes for a frame before it knows whether
it wants it."""

LARGEST_TEXT = 1 << 20
"""Bytes of a body of JSON, at most."""


def size_of(shapes: Shapes) -> int:
    """Bytes of all arrays together."""
    return sum(prod(shape) * dtype.itemsize for dtype, shape in shapes)


def head_size_of(shapes: Shapes) -> int:
    """Bytes of a head of these arrays: 96, and for each array 8 and 8 for each axis."""
    return HEADER.size + sum(ARRAY.size + 8 * len(shape) for _, shape in shapes)


def bytes_on_the_wire(arrays: Sequence[np.ndarray]) -> int:
    """Bytes of the frame that carries some arrays, head and all."""
    size = HEADER.size
    # A plain loop: it runs for every frame, and a generator would call for every array.
    for array in arrays:
        size += ARRAY.size + 8 * array.ndim + array.nbytes
    return size


def check(shapes: Shapes, what: str = "`arrays`") -> None:
    """Refuse arrays that no frame can carry.

    Args:
        shapes: dtype and shape of every array.
        what: what the message calls them.

    Raises:
        ValueError: if they are too many, or one has a dtype or a number of axes without a form.
    """
    if len(shapes) > MOST_ARRAYS:
        raise ValueError(
            f"{what} must be at most {MOST_ARRAYS} arrays, got {len(shapes)}."
        )
    for dtype, shape in shapes:
        if dtype not in CODES or len(shape) > MOST_AXES:
            raise ValueError(
                f"{what} holds {dtype}{list(shape)}, which has no form on the wire."
            )
