"""Fitted preprocessing as a file: JSON that can be read by eye, and comes back to the bit.

It is no pickle: nothing runs when it is read, and what does not fit together is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.files import file_of, private_folder, write_whole
from jsplit.tabular.fitted import Fitted, FittedCategories, FittedLabels, FittedNumbers

_FORMAT = "jsplit preprocessing 1"
_KINDS: Mapping[str, type[Fitted]] = {
    "numbers": FittedNumbers,
    "categories": FittedCategories,
    "labels": FittedLabels,
}


def write_fitted(
    folder: str | os.PathLike[str],
    party: str,
    fitted: Mapping[str, Fitted],
    records: int,
) -> Path:
    """Write what was fitted so that a crash leaves either the old file or the new one.

    Args:
        folder: is made if it is not there.
        party: whose it is.
        fitted: by field.
        records: of how many it was learned.

    Returns:
        The file.
    """
    private_folder(Path(folder))
    file = _file(folder, party)
    said = {
        "format": _FORMAT,
        "party": party,
        "records": records,
        "fields": {n: {"kind": _kind(x), **asdict(x)} for n, x in fitted.items()},
    }
    # Python writes the shortest decimals from which the same bits are read.
    text = json.dumps(said, indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(file, text)
    return file


def read_fitted(
    folder: str | os.PathLike[str], party: str
) -> tuple[dict[str, Fitted], int]:
    """Read what `write_fitted` wrote: by field, and of how many records.

    Raises:
        ValueError: naming the file.
    """
    file = _file(folder, party)
    if not file.is_file():
        raise ValueError(f"there is no file {file} for the party `{party}`.")
    try:
        said = json.loads(file.read_text("utf-8"))
        about = said["format"], said["party"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not a whole preprocessing of jsplit.") from error
    if about[0] != _FORMAT:
        raise ValueError(f"{file} has the format {about[0]!r}, expected {_FORMAT!r}.")
    if about[1] != party:
        raise ValueError(f"{file} is of another party than `{party}`.")
    try:
        fitted = {name: _read(one) for name, one in said["fields"].items()}
        return fitted, int(said["records"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is not a whole preprocessing of jsplit.") from error


def _kind(one: Fitted) -> str:
    return next(kind for kind, made in _KINDS.items() if isinstance(one, made))


def _file(folder: str | os.PathLike[str], party: str) -> Path:
    return file_of(folder, party).with_suffix(".preprocessing.json")


def _read(said: Mapping[str, PyTree]) -> Fitted:
    """One field, with tuples where JSON has lists.

    Raises:
        ValueError: if its parts are not of one length, or a scale is none.
    """
    parts = {name: _tupled(x) for name, x in said.items() if name != "kind"}
    one = _KINDS[said["kind"]](**parts)
    if isinstance(one, FittedNumbers):
        each = one.columns, one.fill, one.shift, one.scale, one.flagged
        numbers = np.array([*one.shift, *one.scale], np.float64)
        if len({len(x) for x in each}) > 1 or not np.isfinite(numbers).all():
            raise ValueError("numbers that do not fit together")
        # A division by it would make infinity or NaN of every record.
        if 0 in one.scale:
            raise ValueError("a scale of 0")
    if isinstance(one, FittedCategories) and len(one.known) != len(one.columns):
        raise ValueError("categories that do not fit together")
    return one


def _tupled(x: PyTree) -> PyTree:
    return tuple(map(_tupled, x)) if isinstance(x, list) else x
