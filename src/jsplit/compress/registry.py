"""Links by name: what an agreement calls a link, and the door for links of one's own.

An agreement is a file, so it holds the name of a link and its argument, never the link.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable
from types import MappingProxyType

from jsplit.compress.casting import cast
from jsplit.compress.projecting import low_rank
from jsplit.compress.quantizing import quantize
from jsplit.compress.sparsifying import randomized_top_k, top_k
from jsplit.core.base import Link

LinkMaker = Callable[..., Link]
"""A function that gives a link. An agreement calls it with no argument, or with one: an
integer or a word."""


_makers: dict[str, LinkMaker] = {
    "quantize": quantize,
    "cast": cast,
    "top_k": top_k,
    "randomized_top_k": randomized_top_k,
    "low_rank": low_rank,
}


def register(name: str, maker: LinkMaker, *, replace: bool = False) -> None:
    """Register a maker of links, so that agreements can name what it makes.

    After `register("rounded", rounded)` an agreement may say
    `links={"h": "rounded(10)"}`. Every party makes the link itself, so
    every party registers the same maker, before it reads the agreement.

    Args:
        name: letters, digits and underscores; no keyword of Python.
        maker: a function that gives a `jsplit.Link`. It is called with no
            argument, or with the one that the agreement says: an integer,
            or a word.
        replace: whether a maker of this name may be there already.

    Raises:
        ValueError: if `name` or `maker` is none, or the name is taken.

    Example:
        >>> import jax, jsplit
        >>> def halves(times=1):
        ...     def encode(value, key):
        ...         return jax.tree.map(lambda x: x / 2**times, value)
        ...     def decode(payload, like):
        ...         return jax.tree.map(lambda x: x * 2**times, payload)
        ...     return jsplit.stateless(encode, decode)
        >>> jsplit.compress.register("halves", halves, replace=True)
        >>> "halves" in jsplit.compress.registered()
        True
    """
    # What `link_names` can read back from an agreement: a name that has a
    # bracket or a bar in it would be cut in two there.
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        raise ValueError(
            f"`name` must be of letters, digits and underscores, got {name!r}."
        )
    # "None" in an agreement would read as no link, and be one.
    if keyword.iskeyword(name):
        raise ValueError(f"`name` must be no keyword of Python, got {name!r}.")
    if not callable(maker) or isinstance(maker, Link):
        raise ValueError(
            f"`maker` must be a function that gives a Link, got {type(maker).__name__}."
        )
    # Never silently: parties that mean two things by one name would not
    # find out.
    if name in _makers and not replace:
        raise ValueError(
            f"`name` is `{name}`, of which there is a maker already; "
            "say `replace=True` to have another."
        )
    _makers[name] = maker


def registered() -> MappingProxyType[str, LinkMaker]:
    """List the makers of links that agreements can name.

    Returns:
        The makers by name, to read only; those registered later appear in
        it.

    Example:
        >>> import jsplit
        >>> [*jsplit.compress.registered()][:2]
        ['quantize', 'cast']
    """
    return MappingProxyType(_makers)
