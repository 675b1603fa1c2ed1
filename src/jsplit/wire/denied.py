"""Certificates that count no more, though their end has not come: their serial numbers.

Whoever has lost a key tells the others the serial number of its certificate; each puts it into
a file of its own. There is no list to be fetched from an authority: a party that cannot reach one
would have to choose between nobody and everybody.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path


def denied_in(file: Path) -> frozenset[int]:
    """Read the serial numbers in a file, one a line.

    `0x1f`, `1f`, `00:1F` and openssl's `serial=1F` are the same number. Digits alone may be
    meant either way, so both numbers are denied. What follows a `#` is left out.

    Args:
        file: where they are.

    Returns:
        The numbers.

    Raises:
        ValueError: naming file and line, if one is no number.
        OSError: if the file cannot be read.
    """
    found: set[int] = set()
    for number, line in enumerate(file.read_text().splitlines(), 1):
        text = line.partition("#")[0].strip()
        if text:
            found |= _readings(text, f"{file}, line {number}")
    return frozenset(found)


def _readings(text: str, where: str) -> set[int]:
    """All numbers that a line can mean."""
    plain = re.sub(r"^(serial=|0x)", "", text.lower()).replace(":", "")
    if not re.fullmatch(r"[0-9a-f]+", plain):
        raise ValueError(
            f"{where} must be a serial number in hexadecimal or decimal, got {text!r}."
        )
    found = {int(plain, 16)}
    # Of the two errors that a wrong guess could make, one lets in whoever has the stolen key, and
    # the other shows at once: a party is refused, by a message that names this number.
    if text == plain and plain.isdecimal():
        found.add(int(plain))
    return found


def checked(numbers: Iterable[int]) -> frozenset[int]:
    """Take serial numbers that are given as numbers.

    Args:
        numbers: of certificates.

    Returns:
        The same.

    Raises:
        ValueError: if one of them is none.
    """
    found = list(numbers)
    for n in found:
        # `bool` is an integer of Python, and the number of no certificate.
        if type(n) is not int or n < 0:
            raise ValueError(
                "`deny` must be a file, or serial numbers as integers from 0 on, "
                f"got one of type {type(n).__name__}."
            )
    return frozenset(found)


def why_denied(serial: int, denied: frozenset[int]) -> str | None:
    """Say why a certificate is not taken, if its serial number is denied.

    Args:
        serial: its serial number.
        denied: those that are not believed.

    Returns:
        Words for whoever refuses it; `None` if it is not denied.
    """
    if serial not in denied:
        return None
    return f"its certificate, serial number {serial:#x}, is denied"
