"""Which entry of a file of weights is which leaf of a model: what `names` of `load` says.

Said by patterns with places for numbers, or by a function; it becomes for each entry one
`Aim`, or `None` for one that the model does not have.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, cast

import jax
import numpy as np

from jsplit.core.checks import shown
from jsplit.core.pieces import Piece
from jsplit.core.trees import describe
from jsplit.slicing.weight_files import Entry

Change = Sequence[int] | Callable[[jax.Array], jax.Array]
"""An order of axes, as `numpy.transpose` takes it, or a function of the array."""
Target = str | tuple[str, Change] | None
"""The path of a leaf, or the path and a change, or that the model has no such leaf."""
Pattern = str
"""The name of an entry, with places: `"layers.{i}.weight"`."""
Names = Mapping[Pattern | tuple[Pattern, ...], Target] | Callable[[str], Target]

_PLACE = re.compile(r"\{([A-Za-z_]\w*)\}")


class Stacked(Protocol):
    """Entries of single layers."""

    @property
    def axis(self) -> int:
        """Along which the leaf has them."""
        ...

    def piece(self, piece: Piece, path: str) -> tuple[Entry, Aim]:
        """What fills a leaf of some of the layers."""
        ...


class Aim(NamedTuple):
    """Where an entry of a file goes.

    Attributes:
        path: of the leaf, with dots.
        change: what becomes of the array before it is the leaf; `None`: nothing.
        layers: where the entry is of several, one for a layer each.
    """

    path: str
    change: tuple[int, ...] | Callable[[jax.Array], jax.Array] | None
    layers: Stacked | None = None


def aims_of(names: Names | None, entries: Iterable[str]) -> dict[str, Aim | None]:
    """Where each entry of a file goes.

    Args:
        names: as the user gave it; `None`: entries have the paths of leaves.
        entries: what the file calls them.

    Returns:
        By entry; `None` for one that is left out.

    Raises:
        ValueError: if `names` is none of what it may be, or says nothing, or two
            things, of an entry; or two entries are one leaf.
    """
    if names is None:
        return {entry: Aim(entry, None) for entry in entries}
    target_of = (
        by_pattern(cast("Mapping[str, Target]", names))
        if isinstance(names, Mapping)
        else names
    )
    if not callable(target_of):
        raise ValueError(
            "`names` must be a dictionary of entries to paths of leaves, or a function "
            f"of an entry, got {type(names).__name__}."
        )
    found: dict[str, Aim | None] = {}
    nameless: list[str] = []
    owner: dict[str, str] = {}
    for entry in entries:
        target = target_of(entry)
        if target is _NO_PATTERN:
            nameless.append(entry)
            continue
        aim = found[entry] = _aim(entry, target)
        if aim is not None and owner.setdefault(aim.path, entry) != entry:
            raise ValueError(
                f"`names` has two entries for the leaf `{aim.path}`: "
                f"`{owner[aim.path]}` and `{entry}`."
            )
    if nameless:
        raise ValueError(
            f"`names` says nothing of the entries {listed(nameless)}; what the model "
            "does not have is said by `None`."
        )
    return found


_NO_PATTERN = ""  # no path of a leaf is empty


def by_pattern(names: Mapping[str, Target]) -> Callable[[str], Target]:
    """What a dictionary says of an entry; an empty text if nothing."""
    patterns = [(pattern, compiled(pattern)) for pattern in names]

    def target_of(entry: str) -> Target:
        hits = [(p, m) for p, regex in patterns if (m := regex.fullmatch(entry))]
        if not hits:
            return _NO_PATTERN
        if len(hits) > 1:
            both = listed([pattern for pattern, _ in hits])
            raise ValueError(f"`names`: the entry `{entry}` is meant by {both}.")
        ((pattern, match),) = hits
        return filled_target(pattern, names[pattern], match.groupdict())

    return target_of


def filled_target(pattern: str, target: Target, found: Mapping[str, str]) -> Target:
    """A target with what a pattern found in its places."""
    if isinstance(target, tuple) and len(target) == 2:
        path, change = target
        return _filled(pattern, path, found), change
    return _filled(pattern, target, found) if isinstance(target, str) else target


def compiled(pattern: str) -> re.Pattern[str]:
    """A pattern, in which `{i}` is one part of a name between dots."""
    if not isinstance(pattern, str):
        raise ValueError(
            f"`names` must have names of entries as keys, got {shown(pattern)}."
        )
    text, seen, end = "", set[str](), 0
    for place in _PLACE.finditer(pattern):
        text += re.escape(pattern[end : place.start()])
        text += f"(?P={place[1]})" if place[1] in seen else f"(?P<{place[1]}>[^.]+)"
        seen.add(place[1])
        end = place.end()
    return re.compile(text + re.escape(pattern[end:]))


def _filled(pattern: str, path: object, found: Mapping[str, str]) -> str:
    """A path with what a pattern found in its places."""
    if not isinstance(path, str):
        raise ValueError(
            f"`names` must have paths of leaves as values, got {shown(path)}."
        )
    for place in _PLACE.finditer(path):
        if place[1] not in found:
            raise ValueError(f"`names`: `{path}` has {place[0]}, and `{pattern}` not.")
    return _PLACE.sub(lambda place: found[place[1]], path)


def _aim(entry: str, target: object) -> Aim | None:
    if target is None:
        return None
    if isinstance(target, str):
        return Aim(target, None)
    if isinstance(target, tuple) and len(target) == 2 and isinstance(target[0], str):
        path, change = target
        if callable(change):
            return Aim(path, cast("Callable[[jax.Array], jax.Array]", change))
        axes = isinstance(change, list | tuple) and all(type(n) is int for n in change)
        if axes and sorted(change) == [*range(len(change))]:
            return Aim(path, tuple(change))
        got = [*change] if axes else shown(change)
        raise ValueError(
            f"`names`: of the entry `{entry}` the change must be an order of axes, (1, 0), "
            f"or a function, got {got}."
        )
    raise ValueError(
        f"`names`: of the entry `{entry}` it must say the path of a leaf, a pair of a path "
        "and an order of axes, (1, 0), or a function, or `None` if the model does not "
        f"have it, got {shown(target)}."
    )


def changed(
    aim: Aim, entry: str, like: jax.ShapeDtypeStruct
) -> jax.ShapeDtypeStruct | str:
    """The shape of an entry after its change, or why it can not be made.

    Args:
        aim: where it goes.
        entry: what the file calls it.
        like: its shape in the file, and the dtype of the leaf.
    """
    if aim.change is None:
        return like
    if isinstance(aim.change, tuple):
        if len(aim.change) != len(like.shape):
            return f"`{entry}` is {describe(like)}, and `names` says {aim.change}"
        shape = tuple(like.shape[n] for n in aim.change)
        return jax.ShapeDtypeStruct(shape, like.dtype)
    try:
        made = jax.eval_shape(aim.change, like)
    # It is the user's own function, and may raise what it likes.
    except Exception as error:
        said = str(error).partition("\n")[0]
        return f"the function of `names` does not run on `{entry}`: {said}"
    if not isinstance(made, jax.ShapeDtypeStruct):
        return f"the function of `names` makes no array of `{entry}`"
    return made


def apply_change(aim: Aim, value: np.ndarray) -> np.ndarray | jax.Array:
    """An array after its change."""
    if aim.change is None:
        return value
    if isinstance(aim.change, tuple):
        return value.transpose(aim.change)
    return aim.change(jax.numpy.asarray(value))


_LISTED = 6  # paths in an error


def listed(paths: Sequence[str]) -> str:
    """Paths in the text of an error: the first few, and how many more there are."""
    more = len(paths) - _LISTED
    text = ", ".join(f"`{path}`" for path in paths[:_LISTED])
    return f"{text} and {more} more" if more > 0 else text
