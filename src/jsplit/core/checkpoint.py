"""Each party's state in a file of its own: parameters, statistics, optimizer, links, key and step.

A file is a plain NumPy archive (`np.load` lists what is in it by path), written so that a crash
leaves either the old one or the new one, whole.
"""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import quote

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import PyTree, TrainState

_ABOUT = "about"
_FORMAT = "jsplit party 1"
_LONGEST = 200  # characters of a party in a file name
_READING = Lock()
"""NumPy parses the head of an array as Python, which fails now and then in CPython 3.11.7 where two threads do it at once:
"AST constructor recursion depth mismatch"."""


def save(folder: str | os.PathLike, state: TrainState) -> list[Path]:
    """Write `<folder>/<party>.npz` for every party in `state`; `restore` is the inverse.

    No file holds anything of another party. A party on its own machine saves a `TrainState` of itself alone. What the
    state of many clients has by party beside `parties` goes into a folder of that name, `<folder>/server/<party>.npz`.

    Returns:
        The files written.
    """
    files = []
    for what, parties in state._asdict().items():
        where = _folder_of(folder, what)
        if parties:
            where.mkdir(parents=True, exist_ok=True)
        files += [
            _save_party(file_of(where, party), party, own)
            for party, own in parties.items()
        ]
    return files


def restore(folder: str | os.PathLike, like: TrainState) -> TrainState:
    """The state that `save` wrote, for every party in `like`, bit for bit.

    Args:
        folder: where the files are.
        like: a state of the same shapes and dtypes, as from `trainer.init`, or from that of an algorithm over rounds.

    Raises:
        ValueError: naming file and array, if a file is missing, of another party, of another model, or if the
            parties stand at different steps.
    """
    found = {}
    for what, parties in like._asdict().items():
        where = _folder_of(folder, what)
        found[what] = {
            party: _restore_party(file_of(where, party), party, own)
            for party, own in parties.items()
        }
    steps = {party: int(own.step) for party, own in found["parties"].items()}
    if len(set(steps.values())) > 1:
        raise ValueError(f"the files in {folder} stand at different steps: {steps}.")
    return like._replace(**found)


def _folder_of(folder: str | os.PathLike, what: str) -> Path:
    return Path(folder) if what == "parties" else Path(folder) / what


def file_of(folder: str | os.PathLike, party: str) -> Path:
    """A file name of its own for every party, readable where the name is."""
    name = quote(party, safe="")
    if len(name) > _LONGEST:
        name = f"{name[:_LONGEST]}~{sha256(party.encode()).hexdigest()[:16]}"
    return Path(folder) / f"{name}.npz"


def by_path(state: PyTree) -> dict[str, PyTree]:
    """Leaves by the path to them; slashes within a key are quoted, so that no two paths are alike."""

    def part(key: Any) -> str:
        return quote(jax.tree_util.keystr((key,), simple=True), safe=" .#~:+-")

    return {
        "/".join(map(part, path)): x
        for path, x in jax.tree_util.tree_leaves_with_path(state)
    }


def _is_key(x: jax.Array) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _plain(dtype: np.dtype) -> bool:
    """Whether NumPy's own format knows the dtype; bfloat16 and its like are stored as their bytes."""
    return dtype.kind in "biufc"


def _save_party(file: Path, party: str, state: PyTree) -> Path:
    arrays, dtypes = {}, {}
    for path, x in by_path(state).items():
        dtypes[path] = str(x.dtype)
        data = np.asarray(jax.random.key_data(x) if _is_key(x) else x)
        arrays[path] = (
            data if _plain(data.dtype) else data.reshape(*data.shape, 1).view(np.uint8)
        )
    about = json.dumps({"format": _FORMAT, "party": party, "dtypes": dtypes})
    temporary = file.with_suffix(".tmp")
    try:
        with open(temporary, "wb") as f:
            np.savez(f, **{_ABOUT: np.array(about)}, **arrays)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
    to_disk(file.parent)
    return file


def to_disk(folder: Path) -> None:
    """The names in a folder are on disk, as what was written under them."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _restore_party(file: Path, party: str, like: PyTree) -> Any:
    if not file.is_file():
        raise ValueError(f"there is no file {file} for the party `{party}`.")
    about, arrays = read(file)
    if about.get("format") != _FORMAT:
        raise ValueError(f"{file} is not a jsplit checkpoint.")
    if about["party"] != party:
        raise ValueError(
            f"{file} is of the party `{about['party']}`, expected `{party}`."
        )
    wanted = by_path(like)
    for path in sorted(wanted.keys() ^ about["dtypes"].keys()):
        where = "lacks" if path in wanted else "has"
        raise ValueError(f"{file} is of another model: it {where} `{path}`.")
    leaves = [
        array_of(file, path, arrays[path], about["dtypes"][path], x)
        for path, x in wanted.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def read(file: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a file holds: what it says of itself, and its arrays by path."""
    try:
        with _READING, open(file, "rb") as f, np.load(f, allow_pickle=False) as found:
            arrays = {path: found[path] for path in found.files}
        return json.loads(str(arrays.pop(_ABOUT, "{}"))), arrays
    except (
        Exception
    ) as error:  # NumPy and zipfile raise many kinds for a file that is not whole
        raise ValueError(f"{file} is not a whole jsplit checkpoint: {error}") from error


def array_of(
    file: Path, path: str, data: np.ndarray, dtype: str, like: jax.Array
) -> jax.Array:
    if dtype != str(like.dtype):
        raise ValueError(f"{file}: `{path}` is {dtype}, expected {like.dtype}.")
    if _is_key(like):
        value = jax.random.wrap_key_data(
            jnp.asarray(data), impl=jax.random.key_impl(like)
        )
    else:
        kind = np.dtype(like.dtype)
        value = jnp.asarray(data if _plain(kind) else data.view(kind)[..., 0])
    if value.shape != like.shape:
        raise ValueError(
            f"{file}: `{path}` is {dtype}{list(value.shape)}, expected {like.dtype}{list(like.shape)}."
        )
    return value
