"""Links by name, as an agreement holds them: `"cast(bfloat16) | quantize(8)"`.

A name with an argument is made by a maker that `jsplit.compress` has, built in or
registered; any other name stands for a link that each party gives itself.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from jsplit import compress
from jsplit.compress.registry import LinkMaker
from jsplit.core.base import Link
from jsplit.core.checks import first_line
from jsplit.core.links import chain


def link(spec: str | None, given: Mapping[str, Link] | None = None) -> Link | None:
    """The link that a name stands for.

    Args:
        spec: as `"quantize(4)"`, or several joined by `" | "`; `None` for no link.
        given: links of one's own by name.

    Returns:
        The link, or `None`.

    Raises:
        ValueError: naming the link that there is not.
    """
    given = given or {}
    if spec is None:
        return None
    # The whole text comes first: a link of one's own may be called anything, even what
    # looks like a call or a chain.
    if spec in given:
        return given[spec]
    return chain(*[_made(text.strip()) for text in spec.split("|")])


def check_links(pairs: Mapping[str, Sequence[str | None]]) -> None:
    """Refuse names, by value, that can only be a slip; see `check_link`."""
    for pair in pairs.values():
        for name in pair:
            if name is not None:
                check_link(name)


def check_link(spec: str) -> None:
    """Refuse a name that can only be a slip.

    Any other name may be a link that the parties give themselves, which whoever makes
    the agreement need not have.

    Args:
        spec: the name.

    Raises:
        ValueError: if a maker does not take the argument, or the name is close to a
            maker's.
    """
    # A copy, here and below: another thread may register one meanwhile.
    makers = compress.registered().copy()
    for text in map(str.strip, spec.split("|")):
        name = text.partition("(")[0]
        if name in makers:
            _made(text)
        elif close := get_close_matches(name, makers, 1):
            raise ValueError(f"`links` has `{text}`; is `{close[0]}` meant?")


def _made(text: str) -> Link:
    """The link that one call in words makes.

    Raises:
        ValueError: if there is no such maker, or it does not take the argument.
    """
    makers = compress.registered().copy()
    call = re.fullmatch(r"(\w+)\((\w*)\)", text)
    name = text.partition("(")[0].strip()
    if not call and name in makers:
        raise ValueError(
            f"`links` has `{text}`: `{name}` takes one whole number or one word, "
            f"as in `{name}(4)`."
        )
    if not call or call[1] not in makers:
        raise ValueError(
            f"`links` has `{text}`; there are {_signatures()}, "
            "and those you give by name."
        )
    name, argument = call[1], call[2]
    arguments: list[int | str] = []
    if argument:
        arguments = [int(argument) if argument.isdecimal() else argument]
    try:
        made = makers[name](*arguments)
    # The argument comes from a file that somebody else wrote, so that it does not fit
    # is the file's fault and not a fault of the program. What a maker of a user's own
    # raises then may be anything, as the KeyError of a table of words.
    except Exception as error:
        raise ValueError(f"`links` has `{text}`: {first_line(error)}") from None
    if not isinstance(made, Link):
        raise ValueError(
            f"`links` has `{text}`, whose maker gives no Link "
            f"but a {type(made).__name__}."
        )
    return made


def _signatures() -> str:
    """All makers, as one would call them in words: `quantize(bits), cast(dtype)`."""
    found = []
    for name, maker in compress.registered().copy().items():
        found.append(f"{name}({_arguments(maker)})")
    return ", ".join(found)


def _arguments(maker: LinkMaker) -> str:
    """The names of the arguments that an agreement can give to a maker."""
    try:
        parameters = inspect.signature(maker).parameters.values()
    except (TypeError, ValueError):
        # Some of what is written in C has none that could be read; that must not hide
        # the error in whose message this is.
        return "..."
    # An agreement can say no argument by keyword, so only positional ones show.
    positional = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    )
    return ", ".join(p.name for p in parameters if p.kind in positional)
