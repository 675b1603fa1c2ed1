"""Weights and statistics as safetensors, a file for each party, which `load` reads back.

Optimizers, keys and steps are no weights; `save` keeps those.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from jsplit.core.base import PartyState, TrainState
from jsplit.core.donation import refuse_used_up
from jsplit.core.federation import Federation, one_model
from jsplit.core.files import file_of, private_folder, whole_file
from jsplit.core.keys import is_key
from jsplit.core.paths import by_path, dotted
from jsplit.slicing.leaf_places import PARTS
from jsplit.slicing.weight_files import SAFETENSORS

_NAMES = {dtype: name for name, dtype in SAFETENSORS.items()}


def save_safetensors(
    folder: str | os.PathLike[str],
    state: TrainState | Federation,
    client: int | str | None = None,
) -> list[Path]:
    """Write the weights of every party to a file of its own, `<folder>/<party>.safetensors`.

    An entry has the path of its leaf in the model, with dots, as `load` expects it:
    `encoder.conv.kernel`. Where two nodes of a party have a leaf of one path, as
    segments of different models do, the names of all its entries begin with the node's:
    `smashed/kernel`. BatchNorm's statistics are there too, and no random keys. The
    metadata of a file says the party and which of the two its names are.

    Args:
        folder: where the files go; it is made if it is not there. What is made can be
            read by its owner alone.
        state: of a trainer, or of an algorithm over rounds.
        client: of which client, by number or name, of the state of an algorithm.

    Returns:
        The files written; a party without weights has none.

    Raises:
        ValueError: if the state is used up, is of many clients and none is named, or two
            leaves would have one name.
        OSError: if a file cannot be written; an older one is then as it was.

    References:
        The format: https://github.com/huggingface/safetensors

    Example:
        >>> import os, tempfile, jax.numpy as jnp, jsplit, optax
        >>> def model(params, x):
        ...     h = jsplit.cut(x @ params["low"], "smashed")
        ...     return h @ params["high"]
        >>> weights = {"low": jnp.ones((3, 2)), "high": jnp.ones(2)}
        >>> parts = jsplit.split(model, jnp.ones((4, 3)), init=lambda key, x: weights)
        >>> topology = jsplit.vanilla(*parts.values(), loss=lambda o, y: o - y)
        >>> batch = {"x": jnp.ones((4, 3)), "label": jnp.ones(4)}
        >>> state = jsplit.fused(topology, optax.adam(0.1)).init(0, batch)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files = jsplit.save_safetensors(folder, state)
        ...     parts = jsplit.load(parts, files)
        ...     low, _ = parts["smashed"].init(0)
        >>> [file.name for file in files], low["low"].shape
        (['client.safetensors', 'server.safetensors'], (3, 2))
    """
    refuse_used_up(state)
    if client is not None:
        state = one_model(state, client)
    if isinstance(state, Federation):
        raise ValueError(
            "`client` must say whose weights to write: the state is of many clients."
        )
    files: list[Path] = []
    # All before the first file: an older one stays whole where a name is there twice.
    named = {party: _named(party, own) for party, own in state.parties.items()}
    for party, (entries, names) in named.items():
        if not entries:
            continue
        private_folder(Path(folder))
        about = {"made_by": "jsplit", "party": party, "names": names}
        file = file_of(folder, party).with_suffix(".safetensors")
        files.append(_write(file, entries, about))
    return files


def _named(party: str, own: PartyState) -> tuple[dict[str, np.ndarray], str]:
    """The weights and statistics of a party by name, and what a name is."""
    found: list[tuple[str, str, np.ndarray]] = []
    for part in PARTS:
        for node, tree in getattr(own, part).items():
            leaves = by_path(tree)
            for path, x in zip(leaves.paths, leaves.shapes, strict=True):
                if not is_key(x):
                    found.append((node, dotted(path), np.asarray(jax.device_get(x))))
    plain = {path: x for _, path, x in found}
    if len(plain) == len(found):
        return plain, "path"
    entries = {f"{node}/{path}": x for node, path, x in found}
    if twice := len(found) - len(entries):
        raise ValueError(
            f"`state` of `{party}` has {twice} leaves whose paths are written as those of "
            "others: a key has a dot in it, or a statistic is called as a parameter."
        )
    return entries, "node/path"


def _write(
    file: Path, entries: Mapping[str, np.ndarray], about: Mapping[str, str]
) -> Path:
    """Write a file so that a crash leaves either the old one or the new one."""
    # By hand: the format is a head in JSON and bytes in a row, and so this needs no
    # package, of which each version takes other arguments.
    head: dict[str, object] = {"__metadata__": about}
    at = 0
    # The widest first, so that each begins at a multiple of its elements' bytes.
    ordered = sorted(entries.items(), key=lambda entry: -entry[1].itemsize)
    for name, x in ordered:
        if str(x.dtype) not in _NAMES:
            raise ValueError(f"`{name}` is {x.dtype}, which safetensors does not have.")
        head[name] = {
            "dtype": _NAMES[str(x.dtype)],
            "shape": x.shape,
            "data_offsets": [at, at + x.nbytes],
        }
        at += x.nbytes
    text = json.dumps(head).encode()
    # The same for the first of them, after the head.
    text += b" " * (-len(text) % 8)
    with whole_file(file) as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for _, x in ordered:
            f.write(x.tobytes())
    return file
