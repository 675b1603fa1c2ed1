"""The command: certificates, an agreement, and what a user can mend in one line. Its
processes are in test_party_chaos.
"""

from __future__ import annotations

import json
import threading
from contextlib import closing

import numpy as np
import pytest

import jsplit
from jsplit import command, party
from jsplit.commands import stopping, tasks
from tests.party import federation

PARTS = """
import jsplit
from tests.party import federation
SMALL = federation.small()
LARGEST = jsplit.Metric("largest", lambda y: y.max(), "server", "y")
SMALL = SMALL._replace(topology=SMALL.topology.add(LARGEST))


def agreed():
    return federation.agreed_for(SMALL, steps=3)


def given(name):
    return {
        "own": SMALL.topology,
        "data": federation.own_of(SMALL, name),
        "ids": [f"r{i}" for i in range(8)],
        "optimizer": federation.optimizers(SMALL.topology)[name],
    }


def wrong(name="x"):
    return 3


def slip(name):
    return {"optimiser": 3}


def raises(name="x"):
    raise ValueError("my file has no rows")


def interrupts():
    raise KeyboardInterrupt
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "parts.py").write_text(PARTS)
    return tmp_path


def test_from_certificates_to_predictions(folder, capsys, monkeypatch):
    monkeypatch.setattr(
        stopping.signal, "signal", lambda *_: None
    )  # several parties are threads of one process here
    assert command.main(["certs", "certs", "lab", "clinic", "server"]) == 0
    assert command.main(["ids-key", "ids.key"]) == 0
    assert command.main(["agree", "agreement.json", "parts.py:agreed"]) == 0
    assert command.main(["show", "agreement.json"]) == 0
    said = capsys.readouterr().out
    assert "certs/lab.key" in said and party.read("agreement.json").hash in said
    assert 'left to server: "float32[batch,4]"' in said

    def together(*words):
        def one(p):
            more = [
                ["--out", f"{p}.npz"] if words[0] == "predict" else [],
                ["--log", f"{words[0]}-{p}.log"],
            ]
            return command.main(
                [
                    words[0],
                    "agreement.json",
                    p,
                    "parts.py:given",
                    "--certs",
                    "certs",
                    "--ids-key",
                    "ids.key",
                    "--checkpoint",
                    f"state/{p}",
                    *words[1:],
                    *more[0],
                    *more[1],
                ]
            )

        return federation.together(["lab", "clinic", "server"], one)

    assert set(together("train").values()) == {0}
    log = [
        json.loads(line)
        for line in (folder / "train-server.log").read_text().splitlines()
    ]
    assert (folder / "train-server.log").stat().st_mode & 0o777 in (
        0o600,
        0o666,
    )  # Windows
    assert [x["step"] for x in log] == [1, 2, 3] and {
        "losses",
        "sent",
        "received",
        "compute",
        "wire",
        "wait",
        "time",
    } <= log[0].keys()
    assert "[3/3] step 3, loss" in capsys.readouterr().out
    assert set(together("evaluate", "--records", "8").values()) == {0}
    measured = capsys.readouterr().out
    assert "sorted as text" not in measured
    assert (
        "server: loss " in measured
        and "lab: with what was learned by step 3" in measured
    )
    assert set(together("predict", "--records", "8").values()) == {0}
    largest = np.load("server.npz")["y"].max()
    assert f"server: largest {largest:.6f}" in measured
    assert (
        (np.load("server.npz")["y"]).shape == (8, 1)
        and not (folder / "lab.npz").exists()
    )
    assert threading.active_count() < 30
    [line] = (folder / "evaluate-server.log").read_text().splitlines()
    line = json.loads(line)
    assert line["step"] == 3 and f"server: loss {line['loss']:.6f}" in measured
    assert line["largest"] == pytest.approx(largest)


TURNS = """
from tests.party import federation
from jsplit import party
PAIR = federation.small("pair")


def agreed():
    clients = {c: {"client": c} for c in ("north", "south")}
    turns = party.turns(clients, [("north", 2), ("south", 1)])
    return federation.agreed_for(PAIR, steps=5, turns=turns)


def given(name):
    own = federation.own_of(PAIR, "server" if name == "server" else "client")
    ids = [f"r{i}" for i in range(8)]
    if name == "server":
        own = dict.fromkeys(("north", "south"), own)
        ids = dict.fromkeys(("north", "south"), ids)
    optimizer = federation.optimizers(PAIR.topology)["client"]
    return {"own": PAIR.topology, "data": own, "ids": ids, "optimizer": optimizer}
"""


def test_clients_that_take_turns(folder, capsys, monkeypatch):
    monkeypatch.setattr(stopping.signal, "signal", lambda *_: None)
    (folder / "turns.py").write_text(TURNS)
    command.main(["certs", "certs", "north", "south", "server"])
    command.main(["ids-key", "ids.key"])
    command.main(["agree", "agreement.json", "turns.py:agreed"])
    command.main(["show", "agreement.json"])
    said = capsys.readouterr().out
    assert (
        "client south: south is client" in said
        and "turns: north 2, south 1, and so on; hand-off peer, a missing client: wait"
        in said
    )

    def work(words, parties):
        return federation.together(
            parties,
            lambda p: command.main(
                [
                    words[0],
                    "agreement.json",
                    p,
                    "turns.py:given",
                    "--certs",
                    "certs",
                    "--ids-key",
                    "ids.key",
                    "--checkpoint",
                    f"state/{p}",
                    *words[1:],
                ]
            ),
        )

    assert set(work(["train"], ["north", "south", "server"]).values()) == {0}
    said = capsys.readouterr().out
    assert "[5/5] step 5, loss" in said and "north: done after step 5" in said
    assert set(
        work(
            ["evaluate", "--records", "8", "--client", "north"], ["north", "server"]
        ).values()
    ) == {0}
    assert "server: loss " in capsys.readouterr().out
    assert (
        command.main(
            [
                "evaluate",
                "agreement.json",
                "server",
                "turns.py:given",
                "--certs",
                "certs",
                "--ids-key",
                "ids.key",
                "--checkpoint",
                "state/server",
                "--records",
                "8",
            ]
        )
        == 2
    )
    assert "say whose with `--client`" in capsys.readouterr().err


TRAIN = [
    "train",
    "agreement.json",
    "lab",
    "parts.py:given",
    "--plaintext-without-identity",
]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["certs", "c", "lab", "lab"], "`parties` must name"),
        (["agree", "a.json", "parts.py:wrong"], "must give an agreement"),
        (
            ["agree", "a.json", "parts.txt:x"],
            "must be in a Python file, whose name ends in .py; got parts.txt",
        ),
        (["agree", "a.json", "parts.py:raises"], "my file has no rows (raised in"),
        (["agree", "a.json", "none.py:x"], "there is no file none.py"),
        (["agree", "a.json", "parts.py:y"], "names `y`"),
        (["show", "none.json"], "none.json holds no agreement"),
        (
            ["train", "agreement.json", "nobody", "parts.py:given", "--certs", "c"],
            "must be one of lab, clinic, server",
        ),
        (
            ["train", "agreement.json", "lab", "parts.py:given", "--certs", "c"],
            "there is no file c/lab.crt",
        ),
        (
            ["train", "agreement.json", "lab", "parts.py:wrong", "--certs", "c"],
            "must give a dictionary",
        ),
        (
            [*TRAIN, "--address", "sevrer=x:1"],
            "must be party=host:port, for one of lab, clinic, server, got sevrer=x:1",
        ),
        ([*TRAIN, "--listen", "8476"], "must say host:port for `--listen`, got '8476'"),
        (
            [
                "train",
                "agreement.json",
                "lab",
                "parts.py:slip",
                "--plaintext-without-identity",
            ],
            "gives `optimiser`; it may give",
        ),
        ([*TRAIN, "--address", "server"], "`--address` must be party=host:port"),
        (
            [*TRAIN, "--pulse", "0", "5"],
            "`--pulse` must be two positive numbers of seconds",
        ),
        (
            [*TRAIN, "--address", "server=x:1", "--address", "server=x:2"],
            "`--address` gives two addresses of server",
        ),
        (
            [*TRAIN, "--bound", "left=1", "--bound", "left=2"],
            "`--bound` gives two norms of left",
        ),
        ([*TRAIN, "--bound", "left"], "`--bound` must be value=norm, a number"),
        (
            [*TRAIN, "--bound", "right=3", "--ids-key", "ids.key"],
            "`bound` names `right`; this party receives left",
        ),
    ],
)
def test_what_a_user_can_mend_is_one_line(folder, capsys, words, message):
    (folder / "parts.txt").write_text(PARTS)
    command.main(["agree", "agreement.json", "parts.py:agreed"])
    command.main(["ids-key", "ids.key"])
    assert command.main(words) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("given", "told"),
    [({"own": 1}, True), ({"ids": ["a"]}, False), ({"data": 1}, False)],
)
def test_who_gets_rows_in_an_order_not_its_own_is_told_so(
    given, told, folder, capsys, monkeypatch
):
    state = jsplit.PartyState({}, {}, (), {}, None, 3)
    result = party.Result(state, 3, outputs={"y": np.zeros((4, 1))})
    monkeypatch.setattr(tasks.parties, "predict", lambda *_, **__: result)
    gathered = tasks.Gathered(
        federation.agreed_for(federation.small()), given, None, None, {}, (), None
    )
    monkeypatch.setattr(tasks, "gather", lambda _: gathered)
    words = ["predict", "a.json", "server", "x.py:x", "--certs", "c", "--records", "4"]
    assert command.main([*words, "--checkpoint", "state"]) == 0
    assert ("sorted as text" in capsys.readouterr().out) is told


def test_a_training_that_keeps_nothing_says_so(folder, caplog):
    assert command.main([*TRAIN[:-1], "--certs", "none"]) == 2
    assert "without `--checkpoint` nothing of what is learned is kept" in caplog.text
    caplog.clear()
    command.main([*TRAIN[:-1], "--certs", "none", "--checkpoint", "state"])
    assert "`--checkpoint`" not in caplog.text


def test_where_an_error_came_from_is_said_on_demand(folder, capsys):
    assert command.main(["agree", "a.json", "parts.py:raises", "--debug"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" in error and 'raise ValueError("my file has no rows")' in error


def test_an_interrupt_is_one_line_and_status_130(folder, capsys):
    assert command.main(["agree", "a.json", "parts.py:interrupts"]) == 130
    assert capsys.readouterr().err == "jsplit agree: interrupted\n"


def test_the_log_is_json_whatever_the_losses_are(tmp_path):
    with closing(stopping.Lines(tmp_path / "log")) as lines:
        tasks.Progress(9, lines)(
            party.Metrics(
                1,
                {"a": float("nan"), "b": 0.5, "c": float("inf")},
                0,
                0,
                0.1,
                0.1,
                0.0,
                0.0,
                1,
            )
        )

    def refuse(constant):
        raise ValueError(constant)

    found = json.loads((tmp_path / "log").read_text(), parse_constant=refuse)
    assert found["losses"] == {"a": None, "b": 0.5, "c": None} and found["step"] == 1


def test_what_is_said_of_the_network_reaches_it(folder, monkeypatch):
    given = {}
    monkeypatch.setattr(
        tasks.parties, "run", lambda *_, **options: given.update(options) or 1 / 0
    )
    command.main(["agree", "agreement.json", "parts.py:agreed"])
    with pytest.raises(ZeroDivisionError):
        command.main(
            [
                *TRAIN,
                "--pulse",
                "30",
                "60",
                "--address",
                "server=x:1",
                "--listen",
                "y:2",
                "--bound",
                "left=1e3",
            ]
        )
    said = [given[name] for name in ("pulse", "addresses", "listen", "bound")]
    assert said == [(30.0, 60.0), {"server": "x:1"}, "y:2", {"left": 1000.0}]


def test_encryption_or_none_must_be_said(folder, capsys):
    with pytest.raises(SystemExit):
        command.main(["train", "agreement.json", "lab", "parts.py:given"])
    assert (
        "one of the arguments --certs --plaintext-without-identity is required"
        in capsys.readouterr().err
    )


def test_the_version_is_said(capsys):
    with pytest.raises(SystemExit) as end:
        command.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"jsplit {jsplit.__version__}\n"
