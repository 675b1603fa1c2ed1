"""A bad day, played with processes under a supervisor that knows nothing but exit statuses.

It starts again what ended with 75 or by a signal, as the unit in docs/network.md does.
Nobody is called, and the run ends with the bits of the undisturbed one.
"""

from __future__ import annotations

import signal
import threading
import time

import pytest

from jsplit import party
from tests.party.federation import LONG, agreed_for, bits, small
from tests.party.test_party_chaos import PARTS, Processes, whole_run

# What happens is said by files in the folder: a clock that was set back, a full disk, a
# step that takes its time.
BAD = (
    PARTS
    + """
import errno, time
from pathlib import Path

CLOCK, CLOCK_NS, FSYNC = time.time, time.time_ns, os.fsync
BACK = 3600.0


def fsync(file):
    if Path("full").exists():
        raise OSError(errno.ENOSPC, "No space left on device")
    FSYNC(file)


os.fsync = fsync
time.time = lambda: CLOCK() - BACK * Path("back").exists()
time.time_ns = lambda: CLOCK_NS() - int(BACK * 1e9) * Path("back").exists()
given_well = given


def given(name):
    found = given_well(name)
    data = found["data"]
    order = sorted(range(24), key=[f"r{i}" for i in range(24)].__getitem__)
    from jsplit.party.contract.record_order import places_of

    def batch(step):
        if Path(f"slow-{name}").exists() and step % 50 == 0:
            time.sleep(5.0)
        rows = [order[i] for i in places_of(step, 24, 8, 3)]
        return {field: x[rows] for field, x in data.items()}

    return {**found, "data": batch, "ids": None}
"""
)
AGAIN = 75


class Supervisor:
    """Starts processes again by their status alone, each a while after it has ended."""

    def __init__(self, run: Processes):
        self.run, self.ended, self.statuses = run, threading.Event(), []
        self.threads = [
            threading.Thread(target=self.watch, args=(name, 0.2 + 0.5 * i))
            for i, name in enumerate(run.agreed.parties)
        ]
        for thread in self.threads:
            thread.start()

    def watch(self, name, pause):
        while not self.ended.is_set():
            self.run.start(name)
            status = None
            while status is None and not self.ended.wait(0.05):
                status = self.run.running[name].poll()
            self.statuses.append((name, status))
            if status != AGAIN and not (status is not None and status < 0):
                return
            self.ended.wait(pause)

    def close(self):
        self.ended.set()
        for thread in self.threads:
            thread.join(LONG)


@pytest.mark.slow
def test_a_bad_day_ends_with_the_bits_of_a_good_one_and_nobody_is_called(tmp_path):
    problem, steps = small(), 300
    agreed = agreed_for(problem, steps=steps, checkpoint=10, patience=4.0)
    run = Processes(tmp_path, agreed)
    (tmp_path / "parts.py").write_text(BAD)
    supervisor = Supervisor(run)
    try:

        def reaches(step):
            run.wait_for(lambda: run.step("server") > step, 2 * LONG)

        reaches(40)
        # The machines are started again, all at once, and their clock is an hour late.
        (tmp_path / "back").touch()
        for process in run.running.values():
            process.send_signal(signal.SIGKILL)
        time.sleep(1.0)
        reaches(100)
        # The disk is full, until somebody makes it larger.
        (tmp_path / "full").touch()
        run.wait_for(lambda: any(s == AGAIN for _, s in supervisor.statuses), 2 * LONG)
        (tmp_path / "full").unlink()
        reaches(160)
        # Steps take longer than patience, at a member and at the lead.
        (tmp_path / "slow-lab").touch()
        (tmp_path / "slow-server").touch()
        for thread in supervisor.threads:
            thread.join(4 * LONG)
        statuses = [s for _, s in supervisor.statuses]
        assert statuses.count(0) == 3, (statuses, run.said())
        assert {*statuses} == {0, AGAIN, -signal.SIGKILL}
    finally:
        supervisor.close()
        run.close()
    states = whole_run(agreed, problem, steps)
    for name in agreed.parties:
        assert bits(run.state(name, problem, steps)) == bits(states[name]), name


@pytest.mark.slow
def test_statuses_of_processes_that_hang_up_or_are_held_or_cannot_agree(tmp_path):
    """SIGHUP is 3; a peer that was stopped in its tracks is 75; another seed is 2."""
    problem = small("pair")
    agreed = agreed_for(problem, steps=100_000, checkpoint=20, patience=30.0)
    run = Processes(tmp_path, agreed)
    (tmp_path / "parts.py").write_text(PARTS.replace("small()", 'small("pair")'))
    try:
        for name in agreed.parties:
            run.start(name)
        run.wait_for(lambda: run.step("server") > 10)
        run.running["client"].send_signal(signal.SIGHUP)
        assert run.running["client"].wait(LONG) == 3
        assert run.running["server"].wait(LONG) == AGAIN
        before = run.step("client")
        for name in agreed.parties:
            run.start(name)
        run.wait_for(lambda: run.step("client") > before)
        run.running["server"].send_signal(signal.SIGSTOP)
        assert run.running["client"].wait(LONG) == AGAIN
        run.running["server"].send_signal(signal.SIGCONT)
        party.write(tmp_path / "agreement.json", agreed.replace(seed=9))
        run.start("client")
        assert run.running["client"].wait(LONG) == 2, run.said()
    finally:
        run.close()
