"""Arrays of checkpoint files, put together and divided as a stack of layers is.

A stack that was cut at one place and is loaded where it is cut at another.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jsplit.core.pieces import Piece, rows_of, together


class Filed(NamedTuple):
    """An array of a checkpoint.

    Attributes:
        file: where it is.
        data: as the archive holds it.
        dtype: what was saved.
        clients: of the file; an array of many may have them as its first axis.
    """

    file: Path
    data: np.ndarray
    dtype: str
    clients: object


def joined(parts: Sequence[Filed], axis: int) -> Filed:
    """A stack from its pieces, in order."""
    _refuse_clients(parts[0])
    file, _, dtype, clients = parts[0]
    if any(part.dtype != dtype for part in parts):
        raise ValueError(f"{file} has layers of a stack in another dtype than others.")
    return Filed(file, together([part.data for part in parts], axis), dtype, clients)


def rows(whole: Filed, piece: Piece) -> Filed:
    """A piece of a stack."""
    _refuse_clients(whole)
    return whole._replace(data=rows_of(whole.data, piece))


def refuse_trained_alone(
    found: Sequence[tuple[tuple[str, str, str], Filed]],
) -> None:
    """Refuse files of what is trained alone, where the frozen rest is a hash.

    Args:
        found: each array beside its part, node and path.

    Raises:
        ValueError: naming the file.
    """
    for (part, node, path), (file, data, dtype, _) in found:
        # The hash is of what one node had, so it says nothing where the cut is elsewhere.
        is_hash = path == "frozen" and dtype == "uint8" and data.shape[-1:] == (32,)
        if is_hash and any(
            other[:2] == (part, node) and other[2].startswith("trained")
            for other, _ in found
        ):
            raise ValueError(
                f"{file} holds what is trained alone, beside a hash of its base, as "
                "jsplit.save_trained writes it: read it by jsplit.restore_trained into a "
                "trainer that is cut as that one was; jsplit.variables of the state and "
                "jsplit.load_variables take it to where the model is cut elsewhere."
            )


def _refuse_clients(found: Filed) -> None:
    # Which axis is the layers' would be a guess.
    if found.clients:
        raise ValueError(
            f"{found.file} holds a stack of layers of many clients, which can be loaded "
            "where it is cut as it was: save that of one client, by jsplit.save(folder, "
            "state, client=...)."
        )
