"""Weights into a state: of the whole model, or of files, whatever the topology they come from.

Slices of one model hold its leaves at the paths that they have in the
whole, so a leaf finds its place wherever the model is cut.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import Params, PartyState, PyTree, State, TrainState
from jsplit.core.checkpoint import array_of, read
from jsplit.core.federation import Federation
from jsplit.core.paths import arrays_by_path, by_path, dotted
from jsplit.core.pieces import fitted, rows_of, together
from jsplit.core.trees import is_floating
from jsplit.slicing.filed import Filed, joined, refuse_trained_alone, rows
from jsplit.slicing.leaf_places import (
    PARTS,
    Place,
    Wanted,
    check_once,
    check_whole,
    key_of,
    places_of,
)

_Held = TypeVar("_Held", TrainState, Federation)


_Find = Callable[[Place, jax.Array], jax.Array | None]
"""`find(place, like)`: the new leaf in the form of `like`; `None` where shapes differ."""


def load_variables(state: _Held, params: Params, statistics: State = None) -> _Held:
    """Put the parameters and statistics of the whole model into a state.

    This is the inverse of `variables`. The topology may be another than that
    which trained them, cut elsewhere or not at all. Optimizers, links,
    key and step stay as they are in `state`. In the state of an algorithm
    over rounds every client gets them.

    Args:
        state: as from `trainer.init`, of segments that `split` made.
        params: of the whole model, as `variables` gives them, or a pytree
            of other containers with the same paths.
        statistics: of the whole model, likewise; none where it has none.

    Returns:
        The state with copies of them in it.

    Raises:
        ValueError: naming a leaf that is lacking, that no segment has, or
            that has another shape or dtype; or if an optimizer holds a copy
            of the weights, which would be the old ones.

    Example:
        >>> import jax.numpy as jnp, jsplit, optax
        >>> def model(params, x):
        ...     h = jsplit.cut(x @ params["low"], "smashed")
        ...     return h @ params["high"]
        >>> weights = {"low": jnp.ones((3, 2)), "high": jnp.ones(2)}
        >>> parts = jsplit.split(model, jnp.ones((4, 3)), init=lambda key, x: weights)
        >>> topology = jsplit.vanilla(*parts.values(), loss=lambda o, y: o - y)
        >>> trainer = jsplit.fused(topology, optax.sgd(0.1))
        >>> state = trainer.init(0, {"x": jnp.ones((4, 3)), "label": jnp.ones(4)})
        >>> trained = {"low": 2 * jnp.ones((3, 2)), "high": 3 * jnp.ones(2)}
        >>> state = jsplit.load_variables(state, trained)
        >>> float(trainer.predict(state, {"x": jnp.ones((1, 3))})["output"][0])
        36.0
    """
    given: dict[tuple[str, ...], PyTree] = {}
    for part, tree in zip(PARTS, (params, statistics), strict=True):
        if tree is not None:
            found = by_path(tree)
            for path, leaf in zip(found.paths, found.shapes, strict=True):
                given[part, dotted(path)] = leaf

    places = places_of(
        state, lambda tree: [dotted(path) for path in by_path(tree).paths]
    )
    # Layers of a stack that several segments have are pieces of one leaf.
    wanted = [key_of(place, True) for place in places]
    given = fitted(given, wanted, together, rows_of)
    check_whole(places, given, "`params` and `statistics`")

    def find(place: Place, like: jax.Array) -> jax.Array | None:
        value = given[place.part, place.path]
        if jnp.shape(value) != like.shape:
            return None
        new = jnp.array(value, copy=True)
        if new.dtype != like.dtype:
            raise ValueError(
                f"the leaf `{place.path}` is {new.dtype}, expected {like.dtype}."
            )
        return new

    return _filled(state, places, find, lambda place: given[place.part, place.path])


def restore_weights(folder: str | os.PathLike[str], like: _Held) -> _Held:
    """Read weights and statistics alone of what `save` wrote, into any topology of the model.

    The optimizers that trained them are left aside, and those of `like`
    stay, with its key and step. Nodes of the same name and the same leaves
    get their own; else the segments must be slices of one model, made by
    `split`, and each leaf goes where the model is cut now.

    Args:
        folder: where the files are, of all parties that have weights.
        like: as from `trainer.init`, or from that of an algorithm over
            rounds; what one client's files hold goes to every client.

    Returns:
        A state of the type and structure of `like`.

    Raises:
        ValueError: naming file and array, if the files hold another model, or
            what `save_trained` wrote, without its base; or if an optimizer of
            `like` holds a copy of its weights.

    Example:
        >>> import tempfile, jax.numpy as jnp, jsplit, optax
        >>> def model(params, x):
        ...     h = jsplit.cut(x @ params["low"], "smashed")
        ...     return h @ params["high"]
        >>> weights = {"low": jnp.ones((3, 2)), "high": jnp.ones(2)}
        >>> parts = jsplit.split(model, jnp.ones((4, 3)), init=lambda key, x: weights)
        >>> topology = jsplit.vanilla(*parts.values(), loss=lambda o, y: o - y)
        >>> batch = {"x": jnp.ones((4, 3)), "label": jnp.ones(4)}
        >>> state = jsplit.fused(topology, optax.adam(0.1)).init(0, batch)
        >>> trainer = jsplit.fused(topology, optax.sgd(0.1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files = jsplit.save(folder, state)
        ...     state = jsplit.restore_weights(folder, trainer.init(1, batch))
        >>> state.parties["client"].params["smashed"]["low"].shape
        (3, 2)
    """
    found: dict[Place, Filed] = {}
    for file in sorted(Path(folder).glob("*.npz")):
        about, arrays = read(file)
        _check_clients(file, about, like)
        for path, dtype in about.get("dtypes", {}).items():
            part, _, rest = path.partition("/")
            if part in PARTS:
                node, _, rest = rest.partition("/")
                own = about.get("clients")
                found[Place(part, node, rest)] = Filed(file, arrays[path], dtype, own)
    if not found:
        raise ValueError(f"there are no weights in the folder {folder}.")
    refuse_trained_alone([*found.items()])

    places = places_of(state=like, paths_of=lambda tree: [*arrays_by_path(tree)])
    whole = found.keys() != places.keys()
    given = {key_of(place, whole): x for place, x in found.items()}
    if whole:
        check_once({place: x[1] for place, x in found.items()}, "the files")
        wanted = [key_of(place, True) for place in places]
        given = fitted(given, wanted, joined, rows)
        check_whole(places, given, f"the folder {folder}")

    def find(place: Place, like: jax.Array) -> jax.Array | None:
        file, data, dtype, _ = given[key_of(place, whole)]
        try:
            return array_of(file, "/".join(place), data, dtype, like)
        except ValueError:
            if dtype != str(like.dtype):
                raise
            return None

    return _filled(like, places, find, lambda place: given[key_of(place, whole)].data)


def _check_clients(
    file: Path, about: Mapping[str, object], like: TrainState | Federation
) -> None:
    """Refuse what was saved of many clients where there is one."""
    if about.get("clients") and not isinstance(like, Federation):
        raise ValueError(
            f"{file} holds the state of many clients, and `like` is of one: save that of "
            "one client, by jsplit.save(folder, state, client=...)."
        )


def _filled(
    state: _Held,
    places: Mapping[Place, Wanted],
    find: _Find,
    raw: Callable[[Place], PyTree],
) -> _Held:
    """Return the state with new leaves in all places."""
    new: list[jax.Array] = []
    for place, (like, clients) in places.items():
        value = find(place, like)
        if value is None and clients is not None:
            one = find(place, like[0])
            value = None if one is None else jnp.repeat(one[None], clients, 0)
        if value is None:
            raise ValueError(
                f"the leaf `{place.path}` of the node `{place.node}` must have shape "
                f"{list(like.shape)}, got {list(jnp.shape(raw(place)))}."
            )
        new.append(value)
    leaves = iter(new)
    parties: dict[str, PartyState] = {}
    for party, held in state.parties.items():
        _check_no_copy(party, held)
        parts = {}
        for part in PARTS:
            structure = jax.tree.structure(getattr(held, part))
            count = structure.num_leaves
            parts[part] = structure.unflatten([next(leaves) for _ in range(count)])
        # Copies of the rest too: a step of the one state uses up its arrays, and
        # `like` may be filled again.
        rest = jax.tree.map(jnp.copy, held._replace(params={}, state={}))
        parties[party] = rest._replace(**parts)
    return state._replace(parties=parties)


def _check_no_copy(party: str, held: PartyState) -> None:
    """Refuse an optimizer's state with a copy of weights in it, as that of schedule-free has."""
    # It would go on from the old weights, and pull the new ones there. A moment
    # that happens to have a weight's numbers, all zeros say, is none.
    weights = [
        np.asarray(x)
        for x in jax.tree.leaves(held.params)
        if is_floating(x) and np.ptp(np.asarray(x, np.float64)) > 0
    ]
    for memory in jax.tree.leaves(held.optimizer):
        for x in weights:
            if memory.shape == x.shape and np.array_equal(memory, x):
                raise ValueError(
                    f"the optimizer of `{party}` holds a copy of the weights, which "
                    "would stay the old ones: give its state anew by its own `init` on "
                    "the loaded weights."
                )
