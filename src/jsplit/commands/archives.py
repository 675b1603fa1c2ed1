"""Fields in archives of NumPy, as the command line is given them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jsplit.commands.whole_training import Whole
from jsplit.core.base import PyTree
from jsplit.core.checks import shown


def fields_of(file: Path | None, name: str, made: Whole) -> dict[str, PyTree] | None:
    """The fields in an archive of NumPy; a field of several arrays by path, as `scan/0`.

    Args:
        file: the archive, or `None` for none.
        name: of the option that names it.
        made: the training that reads the fields; others are left out.

    Raises:
        ValueError: if it is no archive of arrays, or two of its names do not go together.
    """
    if file is None:
        return None
    try:
        # Without Python objects: who opens one runs what its writer wants.
        with np.load(file, allow_pickle=False) as archive:
            arrays = {n: archive[n] for n in archive.files}
    except (ValueError, AttributeError, EOFError, zipfile.BadZipFile, TypeError):
        raise ValueError(
            f"`--{name}` must be an archive of NumPy (.npz) of numbers, got {file}."
        ) from None
    wanted = {*made.topology.fields} | {made.agreed.weight}
    return {n: x for n, x in nested(arrays).items() if n in wanted}


def nested(arrays: Mapping[str, np.ndarray]) -> dict[str, PyTree]:
    """Arrays by path as trees: the inverse of how `jsplit predict` writes them.

    Args:
        arrays: by path.

    Raises:
        ValueError: if one lies where another has parts.
    """
    found: dict[str, PyTree] = {}
    for path, x in arrays.items():
        *above, last = path.split("/")
        here: PyTree = found
        for name in above:
            here = here.setdefault(name, {}) if isinstance(here, dict) else None
        if not isinstance(here, dict) or last in here:
            raise ValueError(
                f"an archive has {shown(path)} beside an array that would hold it."
            )
        here[last] = x
    return {n: _listed(x) for n, x in found.items()}


def _listed(tree: PyTree) -> PyTree:
    if not isinstance(tree, dict):
        return tree
    parts = {n: _listed(x) for n, x in tree.items()}
    places = [str(i) for i in range(len(parts))]
    return [parts[p] for p in places] if {*parts} == {*places} else parts
