"""Whatever text comes from outside, what is shown of it is one short line that hides nothing."""

from __future__ import annotations

from unicodedata import category

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jsplit.wire.said import MOST, is_printable, named, printable, quoted, says

# Surrogates alone too: JSON has them, and no encoding of a terminal has.
TEXTS = st.text(st.characters(exclude_categories=()), max_size=400)
HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def shows_all(line: str) -> bool:
    return not any(category(x) in HIDDEN for x in line)


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_what_is_quoted_is_one_line_cut_and_cannot_leave_its_quotes(text):
    shown = quoted(text)
    assert shows_all(shown) and len(shown) <= MOST + 2
    assert shown.encode() and shown[0] == shown[-1] == '"'
    inner = shown[1:-1].replace("\\\\", "").replace('\\"', "")
    assert '"' not in inner
    assert shows_all(printable(text)) and len(printable(text)) <= 5 * MOST
    assert printable(printable(text)) == printable(text)
    assert shows_all(named(text)) and named(text).strip('"`') in quoted(text)


@pytest.mark.parametrize(
    "code",
    # Directions of writing, isolates, joiners, tags, selectors, fillers, and controls.
    [
        *range(0x20),
        *range(0x7F, 0xA1),
        *(0xAD, 0x34F, 0x61C, 0x115F, 0x1160, 0x17B4, 0x180E, 0x2028, 0x2029, 0x2800),
        *range(0x200B, 0x2010),
        *range(0x202A, 0x202F),
        *range(0x2060, 0x2070),
        *(0x3164, 0xFE0F, 0xFEFF, 0xFFA0, 0xFFF9, 0xD800, 0xDFFF, 0xE000),
        *(0xE0001, 0xE0041, 0xE0101),
    ],
)
def test_what_a_terminal_obeys_or_nobody_sees_is_escaped(code):
    text = f"a{chr(code)}b"
    escape = f"\\x{code:02x}" if code < 256 else f"\\u{{{code:x}}}"
    assert quoted(text) == f'"a{escape}b"' and not is_printable(text)


def test_words_of_all_scripts_stay_as_they_are():
    for text in ("Klinik Süd", "मुंबई", "กรุงเทพ", "北京 1", "תל אביב", "e\u0301"):
        assert quoted(text) == f'"{text}"' and is_printable(text)
    assert not is_printable("e" + "\u0301" * 9)  # would cover the lines above


def test_a_long_text_keeps_its_beginning_and_its_end():
    shown = quoted("begins" + "x" * 1_000_000 + "ends")
    assert shown.startswith('"begins') and shown.endswith('ends"') and "..." in shown
    assert quoted("x" * MOST) == f'"{"x" * MOST}"'


def test_what_is_no_text_is_shown_as_python_writes_it_or_said_not_to_be_there():
    assert quoted([1, "\n"]) == "\"[1, '\\\\n']\"" and quoted(None) == '"None"'
    nested = []
    for _ in range(100_000):
        nested = [nested]
    assert quoted(nested) == '"a list"'
    assert says("lab", "no.") == '`lab` says: "no."'
    assert says("lab", 3) == says("lab", "") == "`lab` does not say why."
