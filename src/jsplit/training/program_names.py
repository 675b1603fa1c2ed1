"""What programs are called: by their party and what they do, as a profiler shows them.

A trace of `jax.profiler` then says whose time it is, on the host by the name of the call and on
the device by the name of the program.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from jsplit.core.base import PyTree
from jsplit.training.walk import Address, Turn

LONGEST = 100
"""Bytes of a name. JAX's cache on disk calls files by it, with 80 bytes beside it, and file
systems take 255: of a longer name nothing would be kept, with a warning each time."""


def named(
    turn: Turn,
    function: Callable[..., Sequence],
    writes: Sequence[Address],
    done: set[str],
) -> Callable[..., Sequence]:
    """A function under the name of what it does of a turn.

    Args:
        turn: of which it is all, or a part.
        function: computes what `writes` names.
        writes: what it gives.
        done: what the parts before it do, in words; what this one does is added.

    Returns:
        The same function. Its name is no part of what is computed; one that is longer
        than `LONGEST` has its beginning, and a digest of all.
    """

    # A function of its own: a method's name cannot be set. It runs in traces alone.
    def run(*values: PyTree) -> Sequence:
        return function(*values)

    needed, labels = {*writes}, list[str]()
    for op in reversed(turn.ops):
        if needed & {*op.writes}:
            needed |= {*op.reads}
            labels += [] if op.label in done else [op.label]
    done.update(labels)
    run.__name__ = _shortened(f"{turn.party}: {', '.join(reversed(labels))}")
    return run


def _shortened(name: str) -> str:
    """The name, or its beginning and a digest, so that two names stay two."""
    if len(name.encode()) <= LONGEST:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    start = name.encode()[: LONGEST - len(digest) - 1].decode(errors="ignore")
    return f"{start} {digest}"
