"""`jsplit serve`: a process that is killed amid a text and started again changes no token."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import optax
import pytest

import jsplit
from jsplit import command, party
from tests.party.federation import LONG, checked, free_port, together
from tests.party.serving import LM_BATCH, TOKENS, summing, wanted

PARTS = """
from tests.party.serving import LM_BATCH, summing


def given(name):
    return {"own": summing(), "data": {"label": LM_BATCH["label"]}}
"""


@pytest.mark.slow
def test_a_process_that_is_killed_and_started_again_changes_no_token(tmp_path):
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
