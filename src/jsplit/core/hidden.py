"""Records whose text hides what is secret: as a record, and as the dictionary made of one.

What prints the leaves of a pytree prints arrays, and JAX's keys print their words: that
cannot be hidden here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from jsplit.core.typed_jax import KeyEntry, dict_key, register_pytree_with_keys

_SECRET = "secret"


class HiddenDict(dict[str, object]):
    """A dictionary whose text does not show the entry `secret`; else as any other."""

    def __repr__(self) -> str:
        return "{" + ", ".join(_texts(self, "{!r}: {}")) + "}"


def text_of_record(name: str, fields: Mapping[str, object]) -> str:
    """The text of a record without its field `secret`."""
    return f"{name}({', '.join(_texts(fields, '{}={}'))})"


def _texts(fields: Mapping[str, object], form: str) -> Iterator[str]:
    for name, x in fields.items():
        # A typed key prints its words, and a state may be printed to a log.
        shown = "<hidden>" if name == _SECRET and x is not None else repr(x)
        yield form.format(name, shown)


def _flatten(
    found: HiddenDict,
) -> tuple[list[tuple[KeyEntry, object]], tuple[str, ...]]:
    # In JAX's order for dictionaries.
    names = tuple(sorted(found))
    return [(dict_key(n), found[n]) for n in names], names


def _unflatten(names: tuple[str, ...], children: Iterable[object]) -> HiddenDict:
    return HiddenDict(zip(names, children, strict=True))


# Of a dictionary that is none of its own types JAX would make one leaf.
register_pytree_with_keys(HiddenDict, _flatten, _unflatten)
