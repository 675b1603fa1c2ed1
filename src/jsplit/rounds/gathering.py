"""Of a data set that lies in files, or is large, a round has the records that it reads.

Their number differs from round to round, and each shape is compiled anew: so there is room
for the most that any round has needed so far, in few steps.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.typed_jax import is_traced
from jsplit.populations.round import Round
from jsplit.populations.stored import gather, is_stored
from jsplit.rounds.state import RoundInfo

_LARGE = 1 << 26  # bytes of arrays in memory from which on some of them are gathered


@dataclass(frozen=True, eq=False)
class Gathering:
    """Gathers what rounds read, with room for the most that any has needed."""

    _room: dict[tuple[int | bool, ...], int] = field(default_factory=dict)

    def __call__(
        self, rounds: Sequence[Round], needed: Collection[str], training: bool = True
    ) -> tuple[list[Round], np.ndarray | None]:
        """Return rounds on the records that they read, and which these are.

        Args:
            rounds: of one data set.
            needed: the fields that are read.
            training: whether rounds train: measuring them is a program of its own.

        Returns:
            The rounds, whose `reads` are places among the records that are gathered, and
            these, int [n]; or the rounds as given, and `None`, where all lies in memory
            and moving it costs little.
        """
        fields = {n: x for n, x in rounds[0].fields.items() if n in needed}
        leaves = jax.tree.leaves(fields)
        in_files = any(map(is_stored, leaves))
        if not in_files and not _is_large(leaves):
            return [*rounds], None
        reads = np.stack([r.reads for r in rounds])
        rows, places = np.unique(reads, return_inverse=True)
        if not in_files and 4 * len(rows) > len(leaves[0]):
            return [*rounds], None
        shape = training, *reads.shape
        room = max(self._room.get(shape, 0), _rounded_up(len(rows)))
        self._room[shape] = room
        found = gather(fields, rows, "field `{}` of the round")
        found = {
            n: jax.tree.map(lambda x: _filled(x, room), x) for n, x in found.items()
        }
        of_each = places.reshape(reads.shape).astype(np.int32)
        made = [
            r._replace(fields=found, reads=its)
            for r, its in zip(rounds, of_each, strict=True)
        ]
        return made, rows


def with_rows(info: RoundInfo, rows: np.ndarray | None) -> RoundInfo:
    """What a round tells, in which reads are places in the data set again.

    Args:
        info: of a round on records that were gathered.
        rows: which these are, or `None` where none were.
    """
    if rows is None or info.recorded is None:
        return info
    reads = rows[np.asarray(info.recorded.reads)].astype(np.int32)
    return info._replace(recorded=info.recorded._replace(reads=jnp.asarray(reads)))


def _is_large(leaves: Sequence[PyTree]) -> bool:
    """Whether arrays of NumPy are so large that a round had better not move them all."""
    # What lies on a device stays there: it moves in no round.
    if not all(isinstance(x, np.ndarray) for x in leaves):
        return False
    return sum(x.nbytes for x in leaves) >= _LARGE


def _rounded_up(count: int) -> int:
    """At least `count`, by at most an eighth: a number of which there are few."""
    step = max(1, (1 << count.bit_length()) // 16)
    return -(-count // step) * step


def _filled(x: PyTree, room: int) -> PyTree:
    """The records, and room after them that nobody reads."""
    if is_traced(x) or isinstance(x, jax.Array):
        return jnp.pad(x, [(0, room - len(x)), *[(0, 0)] * (x.ndim - 1)])
    made = np.zeros((room, *x.shape[1:]), x.dtype)
    made[: len(x)] = x
    return made
