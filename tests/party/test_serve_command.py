"""`jsplit serve`: a process that is killed amid a text and started again changes no token."""

from __future__ import annotations

import argparse
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import optax
import pytest

import jsplit
from jsplit import command, party
from jsplit.commands import asking, prompts
from tests.party.federation import LONG, checked, free_port, together
from tests.party.serving import LM_BATCH, TOKENS, summing, wanted

PARTS = """
from tests.party.serving import LM_BATCH, summing


def given(name):
    return {"own": summing(), "data": {"label": LM_BATCH["label"]}}
"""


def trained_in(tmp_path):
    """What two parties have agreed on and learned, in files; and the server's weights."""
    topology, port = summing(), free_port()
    agreed = party.agreement(
        topology, LM_BATCH, steps=2, addresses={"server": f"127.0.0.1:{port}"}
    )
    party.write(tmp_path / "agreement.json", agreed)
    (tmp_path / "parts.py").write_text(PARTS)
    hub = party.MemoryTransport()

    def train(name):
        held = topology.holds[name]
        return party.run(
            agreed,
            name,
            topology,
            {f: LM_BATCH[f] for f in held},
            optimizer=optax.sgd(0.1),
            credentials=party.PlaintextWithoutIdentity(name),
            checkpoint=tmp_path / name,
            transport=hub,
        )

    results = checked(together(agreed.parties, train))
    weights = np.asarray(results["server"].state.params["logits"])

    return agreed, topology, weights


def test_the_files_of_all_parties_in_one_folder_are_the_state_of_the_whole(tmp_path):
    _, topology, weights = trained_in(tmp_path)
    both = tmp_path / "both"
    both.mkdir()
    for name in ("client", "server"):
        (file,) = (tmp_path / name / f"{2:012}").glob("*.npz")
        shutil.copy(file, both)
    trainer = jsplit.messages(topology, optax.sgd(0.1))
    state = jsplit.restore(both, trainer.init(5, LM_BATCH))
    np.testing.assert_array_equal(state.parties["server"].params["logits"], weights)
    assert {int(own.step) for own in state.parties.values()} == {2}


@pytest.mark.slow
def test_a_process_that_is_killed_and_started_again_changes_no_token(tmp_path):
    agreed, topology, weights = trained_in(tmp_path)

    def start():
        words = ["serve", "agreement.json", "server", "parts.py:given"]
        words += [
            "--plaintext-without-identity",
            "--checkpoint",
            str(tmp_path / "server"),
        ]
        return subprocess.Popen(
            [sys.executable, "-m", "jsplit", *words, "--length", "30"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            text=True,
        )

    server = start()
    try:
        with party.session(
            agreed,
            "client",
            topology,
            credentials=party.PlaintextWithoutIdentity("client"),
            checkpoint=tmp_path / "client",
            example={"tokens": TOKENS},
            batch=2,
            length=30,
            patience=LONG,
        ) as session:
            first = jsplit.generate(session, TOKENS, 3)
            assert session.model.step == 2
            server.send_signal(signal.SIGKILL)
            server.communicate(timeout=LONG)
            server = start()
            last = jsplit.generate(session, first[:, -1:], 3)
            assert session.begun == 2
        both = np.concatenate([first, last], 1)
        np.testing.assert_array_equal(both, wanted(weights, TOKENS, 6))
        server.send_signal(signal.SIGTERM)
        said, _ = server.communicate(timeout=LONG)
        assert server.returncode == 0 and "served step 2 in 1 sessions" in said
    finally:
        server.kill()
        server.communicate(timeout=LONG)


def test_what_is_of_training_alone_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["serve", "a.json", "server", "parts.py:given", "--checkpoint", "state"]
    words += ["--plaintext-without-identity", "--bound", "h=3"]
    assert command.main(words) == 2
    assert "`--bound` is of training" in capsys.readouterr().err
    assert not Path("state").exists()


def test_who_asks_by_the_command_gets_the_tokens_of_the_model_in_the_order_of_its_file(
    tmp_path, monkeypatch, capsys
):
    """Prompts of unequal length too, and of the step that is asked for."""
    agreed, topology, weights = trained_in(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jsplit.commands.stopping.signal.signal", lambda *_: None)
    # The first is not as long as what was trained on.
    given = [[3, 4], [0, 1, 2], [5, 6, 0]]
    Path("prompts.txt").write_text("3 4\n0 1 2\n5 6 0\n")
    stop = threading.Event()
    server = threading.Thread(
        target=lambda: party.serve(
            agreed,
            "server",
            topology,
            credentials=party.PlaintextWithoutIdentity("server"),
            checkpoint=tmp_path / "server",
            step=2,
            stop=stop,
            length=9,
        ),
        daemon=True,
    )
    server.start()
    words = ["ask", "agreement.json", "client", "parts.py:given", "--step", "2"]
    words += ["--plaintext-without-identity", "--checkpoint", "client"]
    words += ["--prompts", "prompts.txt", "--steps", "3"]
    try:
        assert command.main(words) == 0
        found = capsys.readouterr().out.splitlines()[:3]
        assert command.main([*words, "--out", "tokens.txt", "--seed", "1"]) == 0
        capsys.readouterr()
        beside = ["--seed", "1", "--batch", "1", "--prompt", "5 6 0", "--prompt", "3 4"]
        assert command.main([*words[:-4], "--steps", "3", *beside]) == 0
        drawn = capsys.readouterr().out.splitlines()[:2]
    finally:
        stop.set()
        server.join(LONG)
    # Nobody serves any more, and the agreement has them wait for ten minutes.
    capsys.readouterr()
    assert command.main([*words, "--patience", "0.2"]) == 75
    assert "`client` has tried for 0.2 s" in capsys.readouterr().err
    for prompt, line in zip(given, found, strict=True):
        expected = wanted(weights, np.array([prompt]), 3)[0]
        assert line == " ".join(map(str, expected))
    lines = Path("tokens.txt").read_text().splitlines()
    assert [len(x.split()) for x in lines] == [3, 3, 3]
    # Whatever goes beside a prompt, and in whatever order.
    assert [lines[2], lines[0]] == drawn


def asked(*words):
    parser = argparse.ArgumentParser()
    asking.add_options(parser)
    return asking._given(parser.parse_args([*words, "--steps", "3"]))


def test_prompts_are_of_the_command_line_of_standard_input_or_of_a_file(
    tmp_path, monkeypatch, capsys
):
    """The same tokens in the same order, one way at a time."""
    text, file = "3 4\n5 6 0\n", tmp_path / "prompts.txt"
    file.write_text(text)
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    given = [[3, 4], [5, 6, 0]]
    assert asked("--prompt", "3 4", "--prompt", "5 6 0") == given
    assert asked("--prompts", "-") == asked("--prompts", str(file)) == given
    for words in ([], ["--prompt", "3", "--prompts", "-"]):
        with pytest.raises(SystemExit):
            asked(*words)
    assert "--prompt" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.StringIO("3 four\n"))
    for words in (["--prompts", "-"], ["--prompt", "3 four"], ["--prompt", ""]):
        with pytest.raises(
            ValueError, match=r"standard input, line 1|`--prompt`"
        ) as caught:
            asked(*words)
        assert "four" not in str(caught.value)


class Beside:
    """Sessions whose logits are flat, so that a token is what is drawn alone."""

    fields, length, position = ("tokens",), 9, 0
    model = party.Model(0, "")

    def __init__(self, batch=1):
        self.batch = batch

    def another(self, batch):
        return nullcontext(Beside(batch))

    def __call__(self, fields):
        self.position += fields["tokens"].shape[1]
        return np.zeros((*fields["tokens"].shape, 50), np.float32)


def test_what_is_drawn_after_a_prompt_does_not_depend_on_what_goes_beside_it():
    """Nor does where it ends; the same prompt again is drawn anew."""

    def drawn(given, batch, **more):
        told = {"steps": 5, "seed": 3, "temperature": 1.0, "top_k": None, "end": None}
        options = argparse.Namespace(**told | {"batch": batch} | more)
        return asking._generated(Beside(), given, options)[0]

    given = [[1, 2], [3, 4], [5], [1, 2], [6, 7]]
    every = drawn(given, 8)
    assert drawn(given, 1) == drawn(given, 2) == every
    assert drawn(given[::-1], 3)[::-1] == [*every[3:4], *every[1:3], every[0], every[4]]
    assert drawn([[5]], 8) == every[2:3] and len({*map(tuple, every)}) == 5
    end = every[1][1]
    alone, together = (drawn(given, batch, end=end) for batch in (1, 8))
    assert alone == together and alone[1] == every[1][:2]
    assert drawn(given, 8, seed=4) != every


@pytest.mark.parametrize(
    ("text", "why"),
    [("1 2\n3 x\n", "line 2: must be token ids"), ("1\n\n", "prompt 2"), ("", "no pr")],
)
def test_what_is_no_file_of_prompts_is_refused_without_what_is_in_it(
    text, why, tmp_path
):
    (tmp_path / "prompts.txt").write_text(text)
    with pytest.raises(ValueError, match=why) as caught:
        prompts.read(tmp_path / "prompts.txt")
    assert "3 x" not in str(caught.value)
