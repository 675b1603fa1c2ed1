"""What libraries write on standard error has a bound in lines, and nothing else is changed."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext

import pytest

from jsplit import command
from jsplit.commands.stderr_bound import Bound

OF_GRPC = (
    "I1128 23:13:01.{:06d} 19639 ssl_transport_security.cc:2563] Handshake failed: {}\n"
)


def lines_of(said, clock):
    told = []
    bound = Bound(told.append, clock)
    for line in said:
        bound.add(line)
    bound.tell()
    return told


def test_a_flood_of_lines_of_libraries_is_one_of_each_kind_and_their_number():
    said = [OF_GRPC.format(k, f"port {k}") for k in range(1000)]
    told = lines_of(said, lambda: 5.0)
    assert told == [said[0], "libraries: 999 more such lines in 0 s\n"]


def test_kinds_that_outsiders_think_of_have_a_bound():
    said = [OF_GRPC.format(k, "x" * (k + 1)) for k in range(500)]
    told = lines_of(said, lambda: 5.0)
    assert len(told) == 18 and told[:16] == said[:16]


def test_a_flood_that_lasts_is_told_of_every_10_s():
    seconds = iter(range(1000))
    said = [OF_GRPC.format(k, "") for k in range(101)]
    told = lines_of(said, lambda: next(seconds))
    assert 8 <= len(told) <= 11
    numbers = [int(line.split()[1]) for line in told[1:]]
    assert sum(numbers) == 100


@pytest.mark.parametrize(
    "line",
    [
        "F1128 23:13:01.544698 19639 server.cc:1] Check failed\n",
        "2026-11-28 23:13:01,001 lab waits for the other parties\n",
        "    raise ValueError\n",
        "half a line",
    ],
)
def test_all_other_lines_are_passed_on(line):
    assert lines_of([line] * 30, lambda: 0.0) == [line] * 30


SCRIPT = """
import os, sys
from jsplit.commands.stderr_bound import bounded
kept = sys.stderr
with bounded():
    print("of Python", file=sys.stderr)
    for k in range(300):
        os.write(2, b"I1128 23:13:01.544698 19639 ssl.cc:2563] Handshake failed\\n")
    if "abort" in sys.argv:
        os.write(2, b"F1128 23:13:01.544698 19639 ssl.cc:1] the last word\\n")
        os.abort()
assert sys.stderr is kept
os.write(2, b"afterwards\\n")
"""


@pytest.mark.parametrize("aborts", [False, True])
def test_a_process_says_its_last_words_also_when_it_aborts(aborts):
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, *["abort"] * aborts],
        capture_output=True,
        text=True,
        timeout=60,
    )
    lines = ran.stderr.splitlines()
    assert len(lines) == 4 and "of Python" in lines
    assert "libraries: 299 more such lines in 0 s" in lines
    assert (lines[-1] == "afterwards") is not aborts
    assert any("the last word" in line for line in lines) is aborts


@pytest.mark.parametrize(
    ("words", "alone", "bounds"),
    [
        (["train", "a.json", "lab", "x.py:x", "--certs", "c"], True, 1),
        (["show", "a.json"], True, 0),
        (["train", "a.json", "lab", "x.py:x", "--certs", "c"], False, 0),
    ],
)
def test_the_process_of_a_party_has_the_bound_and_no_program_that_calls_main(
    words, alone, bounds, monkeypatch, capsys
):
    entered = []
    monkeypatch.setattr(command, "bounded", lambda: nullcontext(entered.append(1)))
    # It would leave the process of the tests deaf as well.
    monkeypatch.setattr(command, "leave_no_signal", lambda: None)
    monkeypatch.setattr(sys, "argv", ["jsplit", *words])
    assert command.main(None if alone else words) == 2
    assert "holds no agreement" in capsys.readouterr().err
    assert len(entered) == bounds
