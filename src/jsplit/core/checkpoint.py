"""Each party's state in a file of its own: parameters, optimizer, links, keys, step, strengths.

A file is a plain NumPy archive (`np.load` lists what is in it by path),
written so that a crash leaves either the old one or the new one, whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import NotRequired, TypedDict, TypeVar, cast

import jax
import numpy as np

from jsplit.core.base import PartyState, PyTree, TrainState
from jsplit.core.checkpoint_paths import check_paths
from jsplit.core.donation import refuse_used_up
from jsplit.core.federation import Federation, check_order, names_in, one_model
from jsplit.core.files import file_of, private_folder, whole_file
from jsplit.core.keys import is_key
from jsplit.core.paths import arrays_by_path
from jsplit.core.typed_jax import (
    asarray,
    tree_structure,
    tree_unflatten,
    wrap_key_data,
)

_Held = TypeVar("_Held", TrainState, Federation)

_ABOUT = "about"
_FORMAT = "jsplit party 1"

# NumPy parses the head of an array as Python, which fails now and then in
# CPython 3.11.7 where two threads do it at once: "AST constructor recursion
# depth mismatch".
_READING = Lock()


class _About(TypedDict):
    """What a file says of itself: its format, its party, each array's own dtype.

    A file that is none of ours may lack all of it: its format is asked first.
    """

    format: str
    party: str
    dtypes: dict[str, str]
    clients: NotRequired[Sequence[str]]


def save(
    folder: str | os.PathLike[str],
    state: TrainState | Federation,
    client: int | str | None = None,
) -> list[Path]:
    """Write the state of every party to a file of its own, `<folder>/<party>.npz`.

    `restore` is the inverse. No file holds anything of another party. A
    party on its own machine saves a `TrainState` of itself alone. What else
    an algorithm over rounds keeps by party, as its server's optimizers,
    goes into a folder of its own, `<folder>/server/<party>.npz`.

    Args:
        folder: where the files go; it is made if it is not there. What is
            made can be read by its owner alone.
        state: of a trainer, or of an algorithm over rounds.
        client: of which client alone, by number or name, of the state of an
            algorithm; the files are then those of a trainer's state.

    Returns:
        The files written.

    Raises:
        ValueError: if there is no such client, or the state is used up.
        OSError: if a file cannot be written; an older one is then as it
            was.

    Example:
        >>> import tempfile, jax, jax.numpy as jnp, jsplit
        >>> params = {"h": {"weight": jnp.ones(3)}}
        >>> own = jsplit.PartyState(
        ...     params, {"h": {}}, (), {}, jax.random.key(0), jnp.int32(7)
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files = jsplit.save(folder, jsplit.TrainState({"client": own}))
        >>> [file.name for file in files]
        ['client.npz']
    """
    # Before the first file: an older checkpoint stays whole.
    refuse_used_up(state)
    if client is not None:
        state = one_model(state, client)
    files: list[Path] = []
    for what, parties in _by_field(state).items():
        where = _folder_of(folder, what)
        # A field without parties makes no folder: an algorithm without a
        # server's optimizer saves what a trainer saves.
        if parties:
            private_folder(where)
        for party, own in parties.items():
            file = file_of(where, party)
            files.append(_save_party(file, party, own, names_in(state)))
    return files


def restore(folder: str | os.PathLike[str], like: _Held) -> _Held:
    """Read the state that `save` wrote, for every party in `like`, bit for bit.

    Args:
        folder: where the files are.
        like: a state of the same shapes and dtypes, as from `trainer.init`,
            or from that of an algorithm over rounds. A strength that a file
            lacks, since its weight was a number when it was saved, is that
            of `like`.

    Returns:
        A state of the type and structure of `like`.

    Raises:
        ValueError: naming file and array, if a file is missing, of another
            party, of another model, or if the parties stand at different
            steps.

    Example:
        >>> import tempfile, jax, jax.numpy as jnp, jsplit
        >>> params = {"h": {"weight": jnp.ones(3)}}
        >>> own = jsplit.PartyState(
        ...     params, {"h": {}}, (), {}, jax.random.key(0), jnp.int32(7)
        ... )
        >>> like = jsplit.TrainState({"client": own._replace(step=jnp.int32(0))})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = jsplit.save(folder, jsplit.TrainState({"client": own}))
        ...     state = jsplit.restore(folder, like)
        >>> int(state.parties["client"].step)
        7
    """
    found: dict[str, dict[str, PartyState]] = {}
    steps: dict[str, int] = {}
    for what, parties in _by_field(like).items():
        where = _folder_of(folder, what)
        found[what] = {}
        for party, own in parties.items():
            file = file_of(where, party)
            found[what][party] = _restore_party(file, party, own, names_in(like))
            # Only parties count steps; what else an algorithm has by party
            # need not.
            if what == "parties":
                steps[party] = int(found[what][party].step)

    if len(set(steps.values())) > 1:
        raise ValueError(f"the files in {folder} stand at different steps: {steps}.")
    return like._replace(**found)


def _by_field(state: TrainState | Federation) -> dict[str, Mapping[str, PyTree]]:
    """All that a state has by party; that of an algorithm has more than `parties`."""
    # Who its clients are is no array: `like` knows it.
    fields = state._asdict()
    return {what: x for what, x in fields.items() if isinstance(x, Mapping)}


def _folder_of(folder: str | os.PathLike[str], what: str) -> Path:
    return Path(folder) if what == "parties" else Path(folder) / what


def _known_to_numpy(dtype: np.dtype) -> bool:
    """Whether NumPy's own format knows the dtype."""
    # Others (bfloat16, float8) would come back as raw bytes that have lost
    # their dtype.
    return dtype.kind in "biufc"


def _save_party(file: Path, party: str, state: PyTree, names: Sequence[str]) -> Path:
    """Write one file so that a crash leaves either the old one or the new one."""
    arrays: dict[str, np.ndarray] = {}
    dtypes: dict[str, str] = {}
    for path, x in arrays_by_path(state).items():
        dtypes[path] = str(x.dtype)
        data = np.asarray(jax.random.key_data(x) if is_key(x) else x)
        if not _known_to_numpy(data.dtype):
            # Stored as bytes, on an axis of their own: an array without
            # axes has no last one that could be viewed otherwise.
            data = data.reshape(*data.shape, 1).view(np.uint8)
        arrays[path] = data

    about = _About(format=_FORMAT, party=party, dtypes=dtypes, clients=names)
    archive = {_ABOUT: np.array(json.dumps(about)), **arrays}
    with whole_file(file) as f:
        # Under a type without NumPy's own keywords, for the checker, which
        # must think that an array may be called as one of them. No path is.
        cast("Callable[..., None]", np.savez)(f, **archive)
    return file


def _restore_party(
    file: Path, party: str, like: PyTree, names: Sequence[str]
) -> PyTree:
    if not file.is_file():
        raise ValueError(f"there is no file {file} for the party `{party}`.")

    about, arrays = read(file)
    if about.get("format") != _FORMAT:
        raise ValueError(f"{file} is not a jsplit checkpoint.")
    if about["party"] != party:
        other = about["party"]
        raise ValueError(f"{file} is of the party `{other}`, expected `{party}`.")
    check_order(str(file), about.get("clients", names), names)

    wanted = arrays_by_path(like)
    dtypes: dict[str, str] = about["dtypes"]
    check_paths(file, wanted, dtypes)
    # In the order of `like`: an archive's own order is that of the state
    # that was saved, whose dictionaries may have been filled otherwise.
    leaves: list[jax.Array] = []
    for path, x in wanted.items():
        if path in dtypes:
            leaves.append(array_of(file, path, arrays[path], dtypes[path], x))
        else:
            leaves.append(asarray(np.array(x)))
    return tree_unflatten(tree_structure(like), leaves)


def read(file: Path) -> tuple[_About, dict[str, np.ndarray]]:
    """Read a file: what it says of itself, and its arrays by path.

    Raises:
        ValueError: if it is not whole.
    """
    try:
        with _READING, open(file, "rb") as f, np.load(f, allow_pickle=False) as found:
            arrays = {path: found[path] for path in found.files}
        return json.loads(str(arrays.pop(_ABOUT, "{}"))), arrays
    # NumPy, zipfile and zlib raise many kinds for a file that is not whole,
    # and say in none of them which file it is.
    except Exception as error:
        raise ValueError(f"{file} is not a whole jsplit checkpoint: {error}") from error


def array_of(
    file: Path, path: str, data: np.ndarray, dtype: str, like: jax.Array
) -> jax.Array:
    """Make an array of a checkpoint into one as `like` has it.

    Args:
        file: for the error.
        path: for the error.
        data: what the archive holds at that path.
        dtype: what was saved there, as the file says; uint32 of a raw key.
        like: an array, or its shape.

    Returns:
        The array, bit for bit as it was saved.

    Raises:
        ValueError: if dtype or shape are not those of `like`.
    """
    if dtype != str(like.dtype) and not (is_key(like) and dtype == "uint32"):
        raise ValueError(f"{file}: `{path}` is {dtype}, expected {like.dtype}.")

    if is_key(like):
        value = wrap_key_data(asarray(data), impl=jax.random.key_impl(like))
    else:
        kind = np.dtype(like.dtype)
        value = asarray(data if _known_to_numpy(kind) else data.view(kind)[..., 0])

    if value.shape != like.shape:
        found, expected = list(value.shape), list(like.shape)
        raise ValueError(
            f"{file}: `{path}` is {dtype}{found}, expected {like.dtype}{expected}."
        )
    return value
