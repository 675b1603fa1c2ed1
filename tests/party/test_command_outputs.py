"""What a command shall write in the end is refused before anything is computed."""

import os
import threading
from pathlib import Path

import pytest

from jsplit import command, party
from jsplit.commands import outputs, tasks
from tests.party.federation import agreed_for, small

REACH = ["--plaintext-without-identity", "--checkpoint", "state"]


@pytest.fixture(autouse=True)
def nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder.npz").mkdir()
    Path("prompts.txt").write_text("1 2\n")
    agreed = agreed_for(small())
    gathered = tasks.Gathered(agreed, {}, None, None, {}, (), None)
    monkeypatch.setattr(tasks, "gather", lambda _: gathered)

    def computing(*_, **__):
        raise AssertionError("it computes")

    monkeypatch.setattr(party, "predict", computing)
    monkeypatch.setattr(party, "session", computing)


@pytest.mark.parametrize("out", ["nowhere/outputs.npz", "folder.npz"])
@pytest.mark.parametrize(
    "words",
    [
        ["predict", "a.json", "server", "x.py:x", "--records", "4"],
        [
            "ask",
            "a.json",
            "client",
            "x.py:x",
            "--steps",
            "1",
            "--prompts",
            "prompts.txt",
        ],
    ],
    ids=["predict", "ask"],
)
def test_a_file_that_cannot_be_written_is_refused_at_once(words, out, capsys):
    assert command.main([*words, *REACH, "--out", out]) == 2
    assert "`--out` must be a file in a folder" in capsys.readouterr().err


def test_who_writes_nothing_needs_no_folder():
    words = ["predict", "a.json", "lab", "x.py:x", "--records", "4"]
    with pytest.raises(AssertionError, match="it computes"):
        command.main([*words, *REACH, "--out", "nowhere/outputs.npz"])


def test_a_pipe_or_a_device_is_written_to_and_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    found = []
    reader = threading.Thread(
        target=lambda: found.append((tmp_path / "pipe").read_text()), daemon=True
    )
    reader.start()
    outputs.check_file(tmp_path / "pipe")
    outputs.write_text(tmp_path / "pipe", "1 2\n")
    reader.join(10)
    assert found == ["1 2\n"] and (tmp_path / "pipe").is_fifo()
