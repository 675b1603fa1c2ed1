"""What others say is data: `quoted` makes any text from outside safe to show.

Whatever a frame, a certificate, a file of another or the other end of a connection says
goes through here before it is in a log, an error or on a terminal: on one line, in
quotes, cut, and without anything that a terminal would obey or a reader would not see.
"""

from __future__ import annotations

import re
from unicodedata import category

MOST = 200
"""Characters of another's text that are shown, at most, escapes counted as they stand."""
_GAP = "..."
_MARKS = 2
"""Accents in a row that stand as they are; more would cover the lines above and below."""

# Letters and marks by their category, which show nothing at all: fillers, joiners and selectors
# of variants. What else is invisible has a category that `str.isprintable` knows.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0100-\U000e01ef]"
)
_QUOTES = {'"': '\\"', "\\": "\\\\"}
_PLAIN = re.compile(r"[\w.\[\]-]{1,80}")


def quoted(text: object, most: int = MOST) -> str:
    """Show a text from outside, in quotes, on one line, and cut in its middle.

    Args:
        text: what came; anything but a text is shown as Python writes it.
        most: characters between the quotes, at most.

    Returns:
        The text with `"` and `\\` escaped, and all that is not printable: control characters,
        line ends, lone surrogates, what turns the direction of writing, what is invisible.

    Examples:
        >>> from jsplit.wire.said import quoted
        >>> print(quoted('all is "well"'), quoted("\\x1b[2Jdone\\u202e"))
        "all is \\"well\\"" "\\x1b[2Jdone\\u{202e}"
        >>> len(quoted("x" * 1000000))
        202
    """
    return f'"{_escaped(_text_of(text), most, also=_QUOTES)}"'


def printable(text: object, most: int = 5 * MOST) -> str:
    """Show a line of one's own that may hold what others have written, and is not quoted.

    Args:
        text: the line, or what is shown as one.
        most: characters, at most.

    Returns:
        The text with all escaped that is not printable, and cut in its middle. What was
        escaped already stays as it is.

    Examples:
        >>> from jsplit.wire.said import printable
        >>> print(printable("cannot read \\x07 in\\nfile"))
        cannot read \\x07 in\\x0afile
    """
    return _escaped(_text_of(text), most)


def named(text: object) -> str:
    """Show a name that another has given: in backticks if it is plain, else quoted.

    Args:
        text: the name.

    Returns:
        The name, which nobody can take for a sentence.

    Examples:
        >>> from jsplit.wire.said import named
        >>> print(named("links.h[0]"), named("call this number: 1"))
        `links.h[0]` "call this number: 1"
    """
    if isinstance(text, str) and _PLAIN.fullmatch(text) and is_printable(text):
        return f"`{text}`"
    return quoted(text)


def says(who: str, text: object) -> str:
    """Show what a party says as what it says, never in one's own voice.

    Args:
        who: the party, by its name in the agreement.
        text: what it gave, as a reason.

    Returns:
        A sentence of its words in quotes, or that it gave none.

    Examples:
        >>> from jsplit.wire.said import says
        >>> print(says("lab", "the disk is full."))
        `lab` says: "the disk is full."
    """
    if not isinstance(text, str) or not text:
        return f"`{who}` does not say why."
    return f"`{who}` says: {quoted(text)}"


def is_printable(text: str) -> bool:
    """Tell whether a text shows as what it is, on one line.

    Args:
        text: any.

    Returns:
        Whether `printable` would leave it as it is, but for its length.

    Examples:
        >>> from jsplit.wire.said import is_printable
        >>> is_printable("Klinik Süd"), is_printable("Klinik\\u200bSüd")
        (True, False)
    """
    return _escaped(text, len(text)) == text


def _text_of(text: object) -> str:
    if isinstance(text, str):
        return text
    # What JSON holds may be a megabyte long or nested deep, and is shown from its beginning.
    try:
        return repr(text)
    except RecursionError:
        return f"a {type(text).__name__}"


def _escaped(text: str, most: int, also: dict[str, str] | None = None) -> str:
    """The text with what must not stand in it escaped, `most` characters of it at most."""
    # Only what may be shown is looked at: another may have sent a megabyte.
    if len(text) <= most:
        whole = _pieces(text, also)
        if sum(map(len, whole)) <= most:
            return "".join(whole)
    # In the middle: who says it stands at the beginning, and what is wrong often at the end.
    room = most - len(_GAP)
    ahead = _fitting(_pieces(text[:most], also), room - room // 3)
    behind = _fitting(_pieces(text[-most:], also)[::-1], room // 3)
    return "".join([*ahead, _GAP, *behind[::-1]])


def _fitting(pieces: list[str], room: int) -> list[str]:
    """As many pieces from the first on as have room."""
    found: list[str] = []
    for piece in pieces:
        room -= len(piece)
        if room < 0:
            break
        found.append(piece)
    return found


def _pieces(text: str, also: dict[str, str] | None) -> list[str]:
    """Every character as it is shown. An escape is one piece, so that no cut divides it."""
    found: list[str] = []
    # As if accents came before: a text that begins with one would put it onto our own quote.
    marks = _MARKS
    for character in text:
        is_mark = category(character).startswith("M")
        marks = marks + 1 if is_mark else 0
        bad = not character.isprintable() or _INVISIBLE.match(character)
        if bad or marks > _MARKS:
            code = ord(character)
            found.append(f"\\x{code:02x}" if code < 256 else f"\\u{{{code:x}}}")
        else:
            found.append(also.get(character, character) if also else character)
    return found
