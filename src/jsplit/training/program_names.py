"""What programs are called: by their party and what they do, as a profiler shows them.

A trace of `jax.profiler` then says whose time it is, on the host by the name of the call and on
the device by the name of the program.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jsplit.core.base import PyTree
from jsplit.training.walk import Address, Turn

# Bytes of a name. JAX keeps a compiled program in a file of that name and 75 bytes more, and
# file systems take 255.
_LONGEST = 160


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
        The same function. Its name is no part of what is computed.
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
    """A name that a file can have; of a long one its beginning."""
    if len(name.encode()) <= _LONGEST:
        return name
    return name.encode()[: _LONGEST - 3].decode(errors="ignore") + "..."
