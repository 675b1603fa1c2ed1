"""Whether a checkpoint holds what a state has, by path; what it has not is named."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

_SECRET = {
    True: "no secret key of its party, whose links now draw from one (`secret=True`): "
    "it is of another trainer, or older than those links",
    False: "a secret key of its party, whose links draw from none (`secret=True`): it is "
    "of another trainer",
}
"""What is said of a checkpoint without a secret that should be there, and with one too many."""


def check_paths(file: Path, wanted: Collection[str], found: Collection[str]) -> None:
    """Refuse a checkpoint that lacks arrays of a state, or has others.

    Args:
        file: the checkpoint, for the message.
        wanted: the paths of the state's arrays.
        found: those of the file's.

    Raises:
        ValueError: naming the first, and what it is of.
    """
    for path in sorted({*wanted} ^ {*found}):
        where = "lacks" if path in wanted else "has"
        if path == "secret":
            raise ValueError(f"{file} has {_SECRET[path in wanted]}.")
        # A number in the code is what the code says, and so is a strength in its place.
        if path.startswith("strengths/") and path in wanted:
            continue
        if path.startswith("optimizer/"):
            raise ValueError(
                f"{file} is of another optimizer: it {where} `{path}`; "
                "jsplit.restore_weights takes the weights alone."
            )
        raise ValueError(f"{file} is of another model: it {where} `{path}`.")
