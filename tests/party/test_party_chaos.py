"""Connections are cut, replies swallowed and delayed, parties killed: what is left is
what the undisturbed run leaves.

With the kept replies switched off the same faults end the run, so the test can fail.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import jsplit
from jsplit import party
from jsplit.party.compute.local import Local
from jsplit.party.contract.ids_key import made
from jsplit.party.contract.record_order import places_of
from tests.party import federation
from tests.party.federation import (
    LONG,
    Proxy,
    agreed_for,
    bits,
    own_of,
    small,
    together,
    trust_of,
    undisturbed,
)


class KilledError(Exception):
    """The process of a party dies between two steps; all that it had in memory is gone."""


def disturbed(problem, agreed, folder, *, kills, keep_replies=True, seed=0):
    """Train through a proxy that makes trouble at fixed steps of the lead, with parties
    killed at steps of their own.
    """
    trust, rates = trust_of(agreed.parties), federation.optimizers(problem.topology)
    lead = agreed["lead"]
    proxy, rng = (
        Proxy(int(agreed["addresses"][lead].split(":")[1])),
        random.Random(seed),
    )
    left = {p: sorted(kills.get(p, ())) for p in agreed.parties}
    seen: set[int] = set()
    epochs: dict[str, int] = {}

    def trouble(step):
        if step in seen:
            return
        seen.add(step)
        match step % 6:
            case 1:
                proxy.cut()
            case 3:
                proxy.deafen()
            case 4:  # the replies of this step were swallowed
                proxy.cut()
            case 5:
                proxy.hold(rng.choice([0.005, 0.02]))
            case 0:
                proxy.hold(0)

    def one(p):
        role = agreed.turns.role[p]
        batch = own_of(problem, role)

        def on_step(m):
            if p == lead:
                trouble(m.step)
            if left[p] and m.step >= left[p][0]:
                left[p].pop(0)
                raise KilledError

        while True:
            try:
                result = party.run(
                    agreed,
                    p,
                    problem.topology,
                    lambda step: batch,
                    credentials=trust[p],
                    optimizer=rates[role],
                    remind=0.3,
                    checkpoint=folder / p,
                    on_step=on_step,
                    keep_replies=keep_replies,
                    pulse=(1.0, 1.0),
                    addresses={lead: f"127.0.0.1:{proxy.port}"},
                )
                epochs[p] = result.epoch
                return result
            except KilledError:
                continue

    try:
        return together(agreed.parties, one), proxy.faults, epochs
    finally:
        proxy.close()


HANDED = party.turns(
    {c: {"client": c} for c in ("north", "south")}, [("north", 3), ("south", 2)]
)


@pytest.mark.parametrize(
    ("configuration", "turns"), [("vertical", None), ("chain", None), ("pair", HANDED)]
)
def test_faults_and_deaths_of_every_party_leave_no_trace(
    tmp_path, configuration, turns
):
    """Cut, swallowed and held up, directly and by way of the lead; each party dies
    once, the lead among them.
    """
    problem, steps = small(configuration), 24
    agreed = agreed_for(problem, steps=steps, checkpoint=4, turns=turns)
    kills = {p: [6 + 6 * i] for i, p in enumerate(agreed.parties)}
    results, faults, epochs = disturbed(problem, agreed, tmp_path, kills=kills)
    states = undisturbed(problem, steps)
    for p, result in federation.checked(results).items():
        assert bits(result.state) == bits(states[agreed.turns.role[p]]), p
    assert (
        faults >= steps // 2
        and len(set(epochs.values())) == 1
        and epochs[agreed["lead"]] >= 2
    )


def test_the_same_faults_without_the_kept_replies_end_the_run(tmp_path):
    problem = small()
    agreed = agreed_for(problem, steps=24, checkpoint=4, patience=12.0)
    results, *_ = disturbed(problem, agreed, tmp_path, kills={}, keep_replies=False)
    errors = [str(r) for r in results.values() if isinstance(r, BaseException)]
    assert any("asks again for" in e and "which was not kept" in e for e in errors), (
        results
    )


# The same with processes of their own, by the command, and with `kill -9`.

PARTS = """
import os
from jsplit import party
from tests.party import federation
SMALL = federation.small()


def given(name):
    own = federation.own_of(SMALL, name)
    data = {field: own[field].repeat(3, axis=0) for field in own}
    ids = [f"r{i}" for i in range(24)]
    own = {"own": SMALL.topology, "optimizer": federation.optimizers(SMALL.topology)[name]}
    return own | {"data": data, "ids": ids, "keep_replies": os.environ.get("KEEP_REPLIES") != "0"}
"""


class Processes:
    """One process for each party."""

    def __init__(self, folder: Path, agreed: party.Agreement, addresses=()):
        self.folder, self.agreed, self.addresses = folder, agreed, addresses
        party.write(folder / "agreement.json", agreed)
        party.certs(folder / "certs", agreed.parties)
        made(folder / "ids.key")
        (folder / "parts.py").write_text(PARTS)
        path = os.pathsep.join(
            [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        )
        self.env = os.environ | {
            "PYTHONPATH": path,
            "JAX_PLATFORMS": "cpu",
        }
        self.running: dict[str, subprocess.Popen] = {}

    def start(self, name, task="train", *more):
        command = [
            sys.executable,
            "-m",
            "jsplit.command",
            task,
            "agreement.json",
            name,
            "parts.py:given",
            "--certs",
            "certs",
            "--ids-key",
            "ids.key",
            "--checkpoint",
            f"state/{name}",
            *[f"--address={a}" for a in self.addresses],
            *more,
        ]
        log = ["--log", f"{name}.log"] if task == "train" else []
        with open(self.folder / f"{name}.out", "ab") as out:
            self.running[name] = subprocess.Popen(
                [*command, *log], cwd=self.folder, env=self.env, stdout=out, stderr=out
            )

    def step(self, name) -> int:
        """The last step that a party has logged."""
        file = self.folder / f"{name}.log"
        lines = file.read_text().splitlines() if file.exists() else []
        return json.loads(lines[-1])["step"] if lines and lines[-1].endswith("}") else 0

    def wait_for(self, there, seconds=LONG):
        end = time.monotonic() + seconds
        while not there():
            assert time.monotonic() < end, self.said()
            time.sleep(0.02)

    def end(self, seconds=LONG) -> dict[str, int]:
        self.wait_for(
            lambda: all(p.poll() is not None for p in self.running.values()), seconds
        )
        return {n: p.returncode for n, p in self.running.items()}

    def failed(self) -> bool:
        return any(p.poll() not in (None, 0) for p in self.running.values())

    def said(self) -> str:
        return "\n".join(
            (self.folder / f"{n}.out").read_text()[-2000:] for n in self.running
        )

    def close(self):
        for p in self.running.values():
            p.kill()
            p.wait(10)

    def state(self, name, problem, step):
        own = federation.own_of(problem, name)
        like = Local(
            self.agreed,
            name,
            problem.topology,
            federation.optimizers(problem.topology)[name],
        ).init(own)
        folder = self.folder / "state" / name / f"{step:012}"
        return jsplit.restore(folder, jsplit.TrainState({name: like})).parties[name]


def whole_run(agreed, problem, steps):
    """What the processes compute, in one process: the same records in the same order."""
    ids = [f"r{i}" for i in range(24)]
    order = np.array(sorted(range(24), key=ids.__getitem__))
    trainer = jsplit.messages(problem.topology, federation.optimizers(problem.topology))
    fields = {f: x.repeat(3, axis=0) for f, x in problem.batch.items()}
    state = trainer.init(3, problem.batch)
    for step in range(steps):
        rows = order[places_of(step, 24, 8, 3)]
        state, _ = trainer.step(state, {f: x[rows] for f, x in fields.items()})
    return state.parties


def test_processes_that_are_killed_or_asked_to_stop_go_on_when_started_again(tmp_path):
    problem = small()
    agreed = agreed_for(problem, steps=400, checkpoint=25, patience=60.0)
    run = Processes(tmp_path, agreed)
    try:
        for p in agreed.parties:
            run.start(p)
        run.wait_for(lambda: run.step("lab") > 60)
        run.running["lab"].kill()  # -9
        assert run.running["lab"].wait(10) == -signal.SIGKILL
        before = run.step("lab")
        run.start("lab")
        run.wait_for(
            lambda: (
                run.step("lab") > before + 20 or run.running["lab"].poll() is not None
            )
        )
        run.running["clinic"].send_signal(signal.SIGTERM)
        assert run.running["clinic"].wait(LONG) in (
            3,
            0,
        )  # stopped after a step; or all was done by then
        run.start("clinic")
        assert set(run.end().values()) == {0}, run.said()
    finally:
        run.close()
    states = whole_run(agreed, problem, 400)
    for p in agreed.parties:
        assert bits(run.state(p, problem, 400)) == bits(states[p]), p
    assert "done after step 400" in run.said()


def trouble_thirty_six(run: Processes, proxy: Proxy, steps: int) -> int:
    """Cuts, swallowed replies, delays, and `kill -9` of each party in turn, spread over
    a run, as long as it is well. Gives how many were killed.
    """
    rng, kills = random.Random(1), 0
    for number in range(36):
        goal = 40 + number * (steps - 200) // 36
        run.wait_for(
            lambda goal=goal: (
                run.failed() or max(map(run.step, run.agreed.parties)) >= goal
            ),
            300,
        )
        if run.failed():
            break
        match number % 4:
            case 0:
                victim = run.agreed.parties[kills % len(run.agreed.parties)]
                kills += 1
                run.running[victim].kill()
                run.running[victim].wait(10)
                run.start(victim)
            case 1:
                proxy.cut()
            case 2:
                proxy.deafen()
                time.sleep(0.05)
                proxy.cut()
            case 3:
                proxy.hold(rng.choice([0.005, 0.02]))
                time.sleep(0.3)
                proxy.hold(0)
    return kills


@pytest.mark.slow
@pytest.mark.parametrize("keep_replies", [True, False])
def test_two_thousand_steps_with_thirty_faults_leave_no_trace_unless_replies_are_not_kept(
    tmp_path, monkeypatch, keep_replies
):
    """A real process for each party, all behind the proxy."""
    problem, steps = small(), 2000
    agreed = agreed_for(problem, steps=steps, checkpoint=50, patience=120.0)
    lead = agreed["lead"]
    proxy = Proxy(int(agreed["addresses"][lead].split(":")[1]))
    monkeypatch.setenv("KEEP_REPLIES", str(int(keep_replies)))
    run = Processes(tmp_path, agreed, [f"{lead}=127.0.0.1:{proxy.port}"])
    try:
        for p in agreed.parties:
            run.start(p)
        kills = trouble_thirty_six(run, proxy, steps)
        if not keep_replies:
            run.wait_for(
                lambda: (
                    run.failed() or all(p.poll() == 0 for p in run.running.values())
                ),
                300,
            )
            assert run.failed() and "which was not kept" in run.said()
            return
        assert set(run.end(600).values()) == {0}, run.said()
    finally:
        run.close()
        proxy.close()
    states = whole_run(agreed, problem, steps)
    for p in agreed.parties:
        assert bits(run.state(p, problem, steps)) == bits(states[p]), p
    assert proxy.faults + kills >= 30 and kills == 9


@pytest.mark.slow
def test_the_memory_of_both_sides_is_flat_over_ten_thousand_steps():
    """Frames that are kept, waiting or due; threads; and what the process holds. One
    way and both ways.
    """
    import resource

    problem = small("pair")
    agreed = agreed_for(problem, steps=10_000, checkpoint=1000)
    seen: dict[str, list[int]] = {p: [] for p in agreed.parties}

    def on_step(p):
        def look(m):
            if m.step % 1000 == 0:
                seen[p].append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

        return look

    federation.checked(federation.train(agreed, problem, on_step=on_step))
    for p, kilobytes in seen.items():
        assert len(kilobytes) == 10
        assert kilobytes[-1] - kilobytes[1] < 20_000, (
            p,
            kilobytes,
        )  # the most that the process ever held, in kB
