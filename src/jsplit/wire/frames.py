"""What a frame is: a head that says which message of which run it is, and the arrays it carries.

Frames that carry values (activations, cotangents, weights) have arrays as their body, all others
one JSON object. A new kind of message goes to the end of `KINDS`. No bytes here: see `codec`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jsplit.wire.json_types import Json
from jsplit.wire.layout import LARGEST_TEXT, RUN, Shapes, head_size_of, size_of

# A kind's code on the wire is its place here, so the order never changes.
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
    "scalar",
    "sign",
    "verdict",
)
CARRIERS = ("activation", "cotangent", "weights", "scalar", "verdict")
"""The kinds that carry values; the body of all others is JSON."""

_NO_RUN = bytes(RUN)

FrameId = tuple[bytes, int, int, int, str, int, int, int]
"""Run, epoch, sender, receiver, kind, value, step and micro-batch of a frame."""


class CodecError(ValueError):
    """Bytes that are no frame, or none that was agreed upon.

    It says what was expected and what came.
    """


@dataclass(frozen=True)
class Head:
    """Which frame it is, and the dtypes and shapes of what it carries.

    Attributes:
        kind: one of `KINDS`.
        run: hash of what the parties agreed upon, 32 bytes.
        epoch: how often the run has been begun or rolled back; a frame of another epoch is never
            applied.
        instance: number of the sender's process, drawn when it starts.
        sender: the sending party, by its place in the agreement.
        receiver: the receiving party, by its place in the agreement.
        step: the step of training to which the frame belongs.
        micro: the micro-batch within the step.
        value: which of the agreed crossings it is.
        shapes: dtype and shape of every array.
        sealed: whether the arrays are encrypted for the receiver, and cannot be read on the way.

    Examples:
        >>> from jsplit.wire import Head
        >>> head = Head("activation", sender=0, receiver=1, step=3)
        >>> head.size, head.bytes
        (0, 96)
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
        """Bytes of all arrays.

        Examples:
            >>> import numpy as np
            >>> from jsplit.wire import Head, frame_of
            >>> frame_of(Head("activation"), [np.zeros((2, 3), np.float32)]).head.size
            24
        """
        return size_of(self.shapes)

    @property
    def bytes(self) -> int:
        """Bytes of the head itself: 96, and for each array 8 and 8 for each axis.

        Examples:
            >>> import numpy as np
            >>> from jsplit.wire import Head, frame_of
            >>> frame_of(Head("activation"), [np.zeros((2, 3), np.float32)]).head.bytes
            120
        """
        return head_size_of(self.shapes)

    # Neither `instance` nor `shapes` says which message of the run it is, so they are left out.
    # `sealed` is too: a sealed frame and the one that it holds have the same id, and whoever
    # opens it compares them.
    def id(self) -> FrameId:
        """Give what tells a repeated frame from a new one.

        Returns:
            Run, epoch, sender, receiver, kind, value, step and micro-batch.

        Examples:
            >>> from jsplit.wire import Head
            >>> Head("activation", step=3).id() == Head("activation", step=3, instance=7).id()
            True
        """
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
    """A message: its head, and its arrays.

    Attributes:
        head: which message it is.
        arrays: C-contiguous arrays of the dtypes and shapes that the head says.

    Examples:
        >>> from jsplit.wire import Frame, Head
        >>> Frame(Head("hello")).arrays
        ()
    """

    head: Head
    arrays: tuple[np.ndarray, ...] = ()


Accept = Callable[[Head], object]
"""Raises if a frame with this head is not wanted; asked before anything is allocated for its
arrays. What it returns is not used."""


def frame_of(head: Head, arrays: Sequence[ArrayLike]) -> Frame:
    """Build the frame that carries `arrays`; its head says their dtypes and shapes.

    Args:
        head: which message it is; its shapes are replaced.
        arrays: anything that NumPy makes arrays of; copied only if they are not contiguous.

    Returns:
        The frame.

    Examples:
        >>> import numpy as np
        >>> from jsplit.wire import Head, frame_of
        >>> frame_of(Head("activation"), [np.zeros((2, 3), np.float32)]).head.shapes
        ((dtype('float32'), (2, 3)),)
    """
    given: list[np.ndarray] = []
    shapes: list[tuple[np.dtype, tuple[int, ...]]] = []
    # A plain loop: it runs for every frame, and a generator would call for every array.
    for x in arrays:
        array = np.asarray(x)
        # `ascontiguousarray` alone would turn a scalar into an array of one axis.
        if not array.flags.c_contiguous:
            array = np.ascontiguousarray(array)
        given.append(array)
        shapes.append((array.dtype, array.shape))
    return Frame(replace(head, shapes=tuple(shapes)), tuple(given))


def text_of(head: Head, about: Mapping[str, object]) -> Frame:
    """Build the frame whose body is `about` as JSON; the function `about` is the inverse.

    Args:
        head: which message it is; its shapes are replaced.
        about: names and values that JSON can hold.

    Raises:
        ValueError: if the JSON is longer than a receiver reads.
    """
    # Sorted and without spaces: the same content has the same bytes, so a frame that is sent
    # again is the frame that was lost.
    data = json.dumps(about, sort_keys=True, separators=(",", ":")).encode()
    if len(data) > LARGEST_TEXT:
        raise ValueError(
            f"`about` takes {len(data)} bytes, at most {LARGEST_TEXT} can be sent."
        )
    return frame_of(head, [np.frombuffer(data, np.uint8)])


def about(frame: Frame) -> dict[str, Json]:
    """Read the JSON object that a frame holds; `text_of` is the inverse.

    Raises:
        CodecError: if it holds no JSON object.
    """
    kind = frame.head.kind
    try:
        found: Json = json.loads(frame.arrays[0].tobytes().decode())
    # A peer chooses these bytes. Brackets nested a thousand deep make the parser recurse until
    # Python stops it, which is as much the peer's fault as a missing quote.
    except (ValueError, IndexError, RecursionError) as error:
        raise CodecError(
            f"a frame of the kind {kind} must hold JSON: {type(error).__name__}."
        ) from None
    if not isinstance(found, dict):
        raise CodecError(
            f"a frame of the kind {kind} must hold a JSON object, "
            f"got {type(found).__name__}."
        )
    return found


def finite(arrays: Sequence[np.ndarray]) -> bool:
    """Tell whether no array holds NaN or an infinite value."""
    # `jnp.issubdtype` and not NumPy's: only JAX's knows that bfloat16 is a floating dtype.
    return all(
        bool(np.isfinite(x).all())
        for x in arrays
        if jnp.issubdtype(x.dtype, jnp.inexact)
    )
