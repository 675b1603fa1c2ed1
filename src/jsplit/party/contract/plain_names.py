"""Whether the texts of an agreement can be shown as they are, and names be told apart.

An agreement is a file of another, and its names stand in every log and error. So it is
looked at once, before anything else in it is, and whatever is made of it is fit to show.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from unicodedata import category, normalize

from jsplit.wire.said import is_printable, quoted

_LONGEST_TEXT = 1000
_LONGEST_NAME = 100
_ALLOWED = " ._-/@'+&()#,:"
"""What a name may hold beside letters, accents and digits of all scripts. With none of these
can it end the backticks in which a message shows it, or be a command.
"""

# Letters that most fonts draw like one of Latin, first Cyrillic ones, then Greek ones. Unicode's
# NFKC knows none of these, only other forms of the same letter.
_LOOK_ALIKE = str.maketrans(
    "АВЕЅІЈКМНОРСТУХ" + "асеһіјорѕуԁх" + "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ" + "ονρı",
    "ABESIJKMHOPCTYX" + "acehijopsydx" + "ABEZHIKMNOPTYX" + "ovpi",
)


def check_texts(found: object) -> None:
    """Refuse an agreement with a text in it that does not show as what it is.

    Args:
        found: as read from a file, or put together by `jsplit.party.agreement`.

    Raises:
        ValueError: giving the text, with what is wrong in it escaped.
    """
    # A list of what is left to look at, and no recursion: a file may be nested deep.
    left = [found]
    while left:
        entry = left.pop()
        if isinstance(entry, Mapping):
            left += [*entry.keys(), *entry.values()]
        elif isinstance(entry, (list, tuple)):
            left += entry
        elif isinstance(entry, str):
            if len(entry) > _LONGEST_TEXT or not is_printable(entry):
                raise ValueError(
                    f"an agreement must hold texts of at most {_LONGEST_TEXT} printable "
                    f"characters, got {quoted(entry)}."
                )


def check_names(what: str, names: Iterable[str]) -> None:
    """Refuse names that a reader could misread, or take for one another.

    Args:
        what: the entry that has them.
        names: of parties, or of clients; an empty one is nobody's.

    Raises:
        ValueError: giving the name, or both that look alike.
    """
    seen: dict[str, str] = {}
    for name in dict.fromkeys(names):
        # Without turns there is one client, which has no name.
        if name and not _is_name(name):
            raise ValueError(
                f"`{what}` must be names of letters, digits and {_ALLOWED.strip()} of at "
                f"most {_LONGEST_NAME} characters, got {quoted(name)}."
            )
        other = seen.setdefault(_skeleton(name), name)
        # Else who reads a log, or compares certificates, takes one for the other.
        if other != name:
            raise ValueError(
                f"`{what}` has {quoted(other)} and {quoted(name)}, which look alike."
            )


def _is_name(name: str) -> bool:
    fits = len(name) <= _LONGEST_NAME and name == name.strip()
    return (
        fits
        and is_printable(name)
        and all(category(x)[0] in "LMN" or x in _ALLOWED for x in name)
    )


def _skeleton(name: str) -> str:
    """What is left of a name for somebody who looks at it in haste."""
    plain = normalize("NFKC", name).translate(_LOOK_ALIKE).casefold()
    return re.sub(r"\s+", " ", plain)
