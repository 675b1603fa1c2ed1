"""What a supervisor is told by the exit status, and what may not end a run: a terminal
that is closed, a full disk under the output.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from cryptography import x509

from jsplit import command, party
from jsplit.commands import stopping, tasks
from jsplit.commands.statuses import status_of
from jsplit.commands.stopping import Lines
from jsplit.commands.tasks import Progress
from jsplit.party.connection import absence
from jsplit.party.durable import CheckpointStore
from jsplit.party.saved_states import SavedStates
from jsplit.training.verdicts import NotFinite
from jsplit.wire.errors import Refused
from tests.party import federation

METRICS = party.Metrics(1, {"loss": 0.5}, 0, 0, 0.1, 0.1, 0.0, 0.0, 1)


@pytest.fixture(autouse=True)
def _as_from_a_terminal():
    """Whoever runs the tests under nohup has them inherit that SIGHUP is ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("`party` must be"), 2),
        (NotFinite("step 3 leaves"), 2),
        (Refused("the agreements differ"), 2),
        (Refused("another process was started later", alone=True), 2),
        (Refused("no checkpoint in common", again=True), 75),
        (FileNotFoundError("agreement.json"), 2),
        (PermissionError("lab.key"), 2),
        (IsADirectoryError("state"), 2),
        (party.Missing("`lab` waited"), 75),
        (party.Missing("`lab` waited: it is denied", denied=True), 2),
        (party.NotYet("`address` is in use"), 75),
        (OSError(errno.ENOSPC, "No space left on device"), 75),
        (OSError(errno.EIO, "Input/output error"), 75),
        (ConnectionResetError("by peer"), 75),
    ],
)
def test_a_status_says_whether_starting_again_can_help(
    tmp_path, monkeypatch, capsys, error, status
):
    def raises(options):
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jsplit.commands.agreements.show", raises)
    assert command.main(["show", "agreement.json"]) == status == status_of(error)
    assert capsys.readouterr().err.startswith("jsplit show: ")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_service_manager_and_a_closed_terminal_ask_to_stop(name):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with stopping.asked_to_stop() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert stop.wait(10)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("words", ["train", "evaluate --records 8 --checkpoint c"])
def test_who_is_asked_to_stop_before_it_has_begun_does_so_at_once(
    name, words, tmp_path, monkeypatch, capsys
):
    """In the user's function, which may take long and looks at nothing."""
    number = getattr(signal, name)
    before = signal.getsignal(number)

    def gather(options):
        os.kill(os.getpid(), number)
        pytest.fail("it went on")

    monkeypatch.setattr("jsplit.commands.tasks.gather", gather)
    command_name, *more = words.split()
    given = [command_name, "a.json", "lab", "x.py:f", *more, "--certs", "certs"]
    assert command.main(given) == 3
    assert "stopped before it began" in capsys.readouterr().err
    assert signal.getsignal(number) is before


def test_who_was_started_by_nohup_outlives_its_terminal():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping.asked_to_stop() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert not stop.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_step_that_a_training_deletes_beside_an_evaluation_may_be_another_next_time(
    tmp_path,
):
    state = federation.undisturbed(federation.small("pair"), 2)["client"]
    with closing(CheckpointStore(tmp_path, "client", "x", state)) as store:
        store.save(state)
    saved = SavedStates(tmp_path, "client", "x", state)
    for folder in tmp_path.glob("0*"):
        shutil.rmtree(folder)
    with pytest.raises(party.NotYet, match="has the step 2 no more") as error:
        saved.restore(2)
    assert status_of(error.value) == 75


@pytest.mark.parametrize("name", ["patience", "stall"])
def test_seconds_that_no_float_holds_are_refused(name):
    with pytest.raises(ValueError, match=f"`{name}` must be a positive number"):
        federation.agreed_for(federation.small("pair"), **{name: 10**400})


def test_who_is_denied_need_not_start_again_and_who_denies_may():
    problem = federation.small("pair")
    agreed = federation.agreed_for(problem, steps=2, patience=0.5)
    trust = dict(federation.trust_of(agreed.parties))
    serial = x509.load_pem_x509_certificate(trust["client"].certificate).serial_number
    trust["server"] = replace(trust["server"], denied=frozenset({serial}))
    hub = party.MemoryTransport()

    def one(name):
        return party.run(
            agreed,
            name,
            problem.topology,
            federation.own_of(problem, name),
            credentials=trust[name],
            transport=hub,
            optimizer=federation.optimizers(problem.topology)[name],
        )

    found = federation.together(agreed.parties, one)
    assert isinstance(found["client"], party.Missing), found
    assert {p: status_of(error) for p, error in found.items()} == {
        "client": 2,
        "server": 75,
    }


@pytest.mark.parametrize(
    ("denied", "status"),
    [
        ({}, 75),
        ({"east": "denied"}, 75),
        ({"south": "denied"}, 2),
        ({"server": "denied"}, 2),
    ],
)
def test_who_the_lead_has_turned_away_is_told_so_whomever_it_waits_for(denied, status):
    """Who turned it away may have ended since, and all that fails later says less."""
    member = SimpleNamespace(lead=2, me=0, route=lambda _: 2)
    peers = SimpleNamespace(
        party="north",
        names=("north", "south", "server", "east"),
        trouble={"server": "connection refused"},
        denied={*denied},
        lasting=denied,
        member=member,
        vigil=SimpleNamespace(standing=dict),
    )
    error = absence.missing(peers, 5.0, "weights", ["south"])
    assert status_of(error) == status
    assert ("denied" in str(error)) is bool(denied)


class Full:
    """A file on a disk that is full for a while."""

    def __init__(self, file):
        self.file, self.full = file, True

    def write(self, text):
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(text)

    def flush(self):
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")

    def close(self):
        self.file.close()


def test_a_disk_that_is_full_under_log_and_output_costs_lines_and_no_step(
    tmp_path, monkeypatch, caplog
):
    with closing(stopping.Lines(tmp_path / "log")) as lines:
        full = Full(lines.file)
        monkeypatch.setattr(lines, "file", full)
        monkeypatch.setattr("sys.stdout", Full(None))
        progress = Progress(9, lines)
        for _ in range(3):
            progress(METRICS)
        full.full = False
        progress(METRICS)
        stopping.hush()  # or Python would end with status 120
        print("is said to nobody", flush=True)
        sys.stdout.close()
    assert len((tmp_path / "log").read_text().splitlines()) == 1
    assert json.loads((tmp_path / "log").read_text())["step"] == 1
    assert sum("are lost" in r.message for r in caplog.records) == 1


def test_a_prediction_that_cannot_be_written_leaves_the_one_before(
    tmp_path, monkeypatch
):
    """A full disk amid the file, or a process that is killed there."""
    file = tasks._write(tmp_path / "outputs", {"y": np.arange(3)})
    before = file.read_bytes()

    def torn(f, **arrays):
        f.write(b"PK")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tasks.np, "savez", torn)
    with pytest.raises(OSError, match="No space left"):
        tasks._write(tmp_path / "outputs", {"y": np.arange(4)})
    assert [f.name for f in tmp_path.iterdir()] == ["outputs.npz"]
    assert file.read_bytes() == before and file.stat().st_mode & 0o077 == 0


ENDS = """
import os, signal, sys
from jsplit import command
def run(options):
    return 3
class Parser:
    def parse_args(self, arguments):
        from argparse import Namespace
        return Namespace(run=run, debug=False, command="train", party="lab")
command.parser = Parser
status = command.main()
for name in (signal.SIGTERM, signal.SIGHUP):
    os.kill(os.getpid(), name)
sys.exit(status)
"""


def test_a_second_signal_comes_too_late_when_a_party_has_ended():
    ended = subprocess.run([sys.executable, "-c", ENDS], timeout=60)
    assert ended.returncode == 3


def test_a_line_that_was_torn_is_a_line_of_its_own(tmp_path):
    """By a full disk or a killed process: the next process's first line is read as one."""
    file = tmp_path / "log.jsonl"
    for text, torn in (
        ('{"step": 1}\n{"step": 2, "los', 1),
        ('{"step": 1}\n', 0),
        ("", 0),
    ):
        file.write_text(text)
        with closing(Lines(file)) as lines:
            lines.add('{"step": 3}')
        found = file.read_text().splitlines()
        assert found[-1] == '{"step": 3}'
        assert len(found) == 1 + torn + text.count("\n")
