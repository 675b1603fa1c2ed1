"""What a party's folder holds whatever happens to it, and how a run ends: after its
last step, or because one is asked to.
"""

from __future__ import annotations

import json
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jsplit import party
from jsplit.core import files
from jsplit.core.base import PartyState
from jsplit.party import durable, folder, join
from jsplit.party.durable import CheckpointStore
from jsplit.party.finite_states import FiniteStates
from jsplit.party.saved_states import SavedStates
from jsplit.wire.control import Status
from jsplit.wire.member import Member
from jsplit.wire.terms import Crossing, Terms
from tests.party import federation
from tests.party.federation import (
    agreed_for,
    bits,
    checked,
    own_of,
    small,
    together,
    trust_of,
    undisturbed,
)

LIKE = PartyState({"w": jnp.ones(3)}, {}, (), {}, jax.random.key(0), jnp.int32(0))


def disk_of(folder, name="lab", schema="s"):
    return CheckpointStore(folder, name, schema, LIKE)


def at(step):
    return LIKE._replace(step=jnp.int32(step))


# A folder.


def test_a_first_save_that_was_cut_short_leaves_a_folder_to_begin_with(tmp_path):
    """By `kill -9` or a full disk: an empty folder of the first checkpoint, or an empty
    about.json.
    """
    (tmp_path / "000000000000").mkdir()
    (tmp_path / "about.json").write_text("")
    disk = disk_of(tmp_path)
    assert disk.steps == ()
    disk.save(at(0))
    disk.close()
    disk = disk_of(tmp_path)
    disk.close()
    assert disk.steps == (0,)


def test_a_folder_whose_files_are_damaged_is_refused_and_the_file_named(tmp_path):
    disk = disk_of(tmp_path)
    disk.save(at(0))
    disk.finish(7)
    (tmp_path / "done.json").write_text("{")
    with pytest.raises(ValueError, match="done.json is damaged"):
        disk.done(7)
    disk.close()
    (tmp_path / "about.json").write_text("")
    with pytest.raises(
        ValueError, match="does not say whose it is: about.json is missing or damaged"
    ):
        disk_of(tmp_path)
    with pytest.raises(ValueError, match="about.json is missing or damaged"):
        SavedStates(tmp_path, "lab", "s", LIKE)
    (tmp_path / "about.json").write_text(json.dumps({"party": "lab", "schema": "s"}))
    (tmp_path / "000000000000" / "lab.npz").write_bytes(b"PK")
    with pytest.raises(
        ValueError, match=r"holds none that is whole, of the steps \[0\]"
    ):
        disk_of(tmp_path)


def test_one_process_at_a_time_has_a_folder(tmp_path):
    first = disk_of(tmp_path)
    with pytest.raises(ValueError, match="is in use by another process of this party"):
        disk_of(tmp_path)
    first.close()
    disk_of(tmp_path).close()


def test_a_later_process_has_a_larger_number_though_the_clock_was_set_back(
    tmp_path, monkeypatch
):
    first = disk_of(tmp_path)
    first.close()
    monkeypatch.setattr(folder.time, "time_ns", lambda: 5)
    numbers = [first.instance]
    for _ in range(2):
        disk = disk_of(tmp_path)
        disk.close()
        numbers.append(disk.instance)
    assert numbers == [first.instance, first.instance + 1, first.instance + 2]


@pytest.mark.parametrize("kind", ["disk", "memory"])
def test_what_all_have_is_kept_and_the_one_before_it(tmp_path, kind):
    disk = disk_of(tmp_path) if kind == "disk" else durable.InMemory(FiniteStates(LIKE))
    for step in (0, 2, 4, 6):
        disk.save(at(step))
    disk.prune_before(4)
    assert disk.steps == (2, 4, 6)
    disk.prune_before(2)
    assert disk.steps == (2, 4, 6)
    disk.close()


def test_a_file_that_is_replaced_is_on_disk_by_name_too(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files, "to_disk", synced.append)
    files.write_whole(tmp_path / "a.json", "{}")
    assert synced == [tmp_path]


# What all have.

BYTE = ((np.dtype(np.uint8), (1,)),)
TERMS = Terms(
    b"r" * 32,
    ("lab", "clinic", "server"),
    (Crossing("activation", "h", (0,), 2), Crossing("cotangent", "h", (2,), 0)),
    (BYTE, BYTE),
    9,
)


def member(me, instance, *steps):
    return Member(TERMS, me, 2, Status(instance, 0, steps))


def deliver(outgoing, to):
    for place, frame in outgoing:
        if place == to.me:
            to.receive(2, frame)


def test_all_have_no_more_than_the_step_to_which_they_have_gone_back():
    """Else what they go on from would be deleted before they have all saved the next;
    what was said before counts no more.
    """
    server, lab = member(2, 1, 0, 2, 4), member(0, 2, 0, 2, 4)
    server.receive(1, member(1, 3, 0, 2, 4).hello(2))
    said = [(p, f) for p, f in server.receive(0, lab.hello(2)) if p == 0]
    deliver(said, lab)
    assert (lab.committed, server.committed) == (4, 4)
    again = member(0, 5, 0, 2)  # its newest is damaged
    deliver(server.receive(0, again.hello(2)), again)
    assert (again.committed, server.committed) == (2, 2)
    deliver([(p, f) for p, f in said if f.head.kind == "committed"], again)
    assert again.committed == 2


def test_a_lead_that_knows_that_the_run_is_over_says_so_to_whoever_comes():
    server, lab = member(2, 1, 8, 9), member(0, 2, 8, 9)
    server.committed = 9
    deliver(server.receive(0, lab.hello(2)), lab)
    assert lab.committed == 9 and lab.start is None
    server.receive(0, lab.bye(2, "it was asked to stop"))
    assert server.gone == {0} and not server.done
    server.receive(0, lab.bye(2))
    assert server.done == {0}


# Runs.


def work_of(problem, agreed, folder, **options):
    """What each party does; `options` may be functions of the party."""
    trust, rates = trust_of(agreed.parties), federation.optimizers(problem.topology)

    def one(p, **more):
        batch = own_of(problem, p)
        return party.run(
            agreed,
            p,
            problem.topology,
            lambda step: batch,
            optimizer=rates[p],
            credentials=trust[p],
            remind=0.5,
            checkpoint=folder / p,
            **(options | more),
        )

    return one


def same_as_undisturbed(results, problem, steps):
    states = undisturbed(problem, steps)
    assert all(
        bits(r.state) == bits(states[p]) and not r.stopped
        for p, r in checked(results).items()
    )


def test_the_newest_checkpoint_damaged_at_one_all_go_on_from_the_one_before(tmp_path):
    """Also where the others have been told that all have the newest."""
    problem = small("pair")
    agreed = agreed_for(problem, steps=4, checkpoint=2)
    checked(together(agreed.parties, work_of(problem, agreed, tmp_path)))
    file = tmp_path / "client" / "000000000004" / "client.npz"
    file.write_bytes(file.read_bytes()[:-50])
    results = together(
        agreed.parties, work_of(problem, agreed.replace(steps=6), tmp_path)
    )
    same_as_undisturbed(results, problem, 6)
    assert len(results["server"].losses["loss"]) == 4


class DeadError(Exception):
    """The process of a party dies."""


def test_who_is_asked_to_stop_while_it_waits_ends_at_once_and_goes_on_later(tmp_path):
    """Before the first step, where nobody has come, and in the middle, where another has died."""
    problem, stop = small("pair"), threading.Event()
    agreed = agreed_for(problem, steps=8, checkpoint=2)
    stopping = work_of(problem, agreed, tmp_path, stop=stop)
    threading.Timer(0.5, stop.set).start()
    began = time.monotonic()
    result = checked(together(["client"], stopping))["client"]
    assert result.stopped and result.step == 0 and time.monotonic() - began < 5
    stop.clear()

    def dies(m):
        if m.step == 5:
            threading.Timer(0.5, stop.set).start()
            raise DeadError

    found = together(
        agreed.parties,
        lambda p: stopping(p, **({"on_step": dies} if p == "server" else {})),
    )
    assert (
        isinstance(found["server"], DeadError)
        and found["client"].stopped
        and found["client"].step == 4
    )
    assert bits(found["client"].state) == bits(undisturbed(problem, 4)["client"])
    same_as_undisturbed(
        together(agreed.parties, work_of(problem, agreed, tmp_path)), problem, 8
    )


def test_a_lead_that_dies_before_it_has_noted_the_end_finds_the_others_still_there(
    tmp_path, monkeypatch
):
    problem = small()
    agreed = agreed_for(problem, steps=4, checkpoint=2, patience=15.0)
    real, dead, others = CheckpointStore.finish, [], threading.Barrier(3, timeout=20)

    def finish(self, steps, awaited=()):
        if not dead or self.party != "server":
            if len(dead) < 3:
                others.wait()
                dead.append(self.party)
            if self.party == "server" and "server" in dead:
                raise DeadError
        real(self, steps, awaited)

    monkeypatch.setattr(CheckpointStore, "finish", finish)
    one = work_of(problem, agreed, tmp_path)

    def again(p):
        try:
            return one(p)
        except DeadError:
            assert not (tmp_path / p / "done.json").exists()
            monkeypatch.setattr(CheckpointStore, "finish", real)
            return one(p)

    results = together(agreed.parties, again)
    same_as_undisturbed(results, problem, 4)


def test_who_did_not_learn_that_all_is_done_learns_it_from_the_lead_when_both_are_started_again(
    tmp_path, monkeypatch
):
    """And whoever knows that all know it needs nobody any more."""
    problem = small()
    agreed = agreed_for(problem, steps=4, checkpoint=2)
    real, stop, one = (
        CheckpointStore.finish,
        threading.Event(),
        work_of(problem, agreed, tmp_path),
    )

    def finish(self, steps, awaited=()):
        if self.party == "lab":
            threading.Timer(0.5, stop.set).start()  # when the others have left
            raise DeadError
        real(self, steps, awaited)

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "finish", finish)
        found = together(
            agreed.parties,
            lambda p: one(p, **({"stop": stop} if p == "server" else {})),
        )
    assert (
        isinstance(found["lab"], DeadError)
        and found["server"].step == 4
        and not found["server"].stopped
    )
    assert (
        "lab" in json.loads((tmp_path / "server" / "done.json").read_text())["awaited"]
    )
    results = together(["lab", "server"], one)
    same_as_undisturbed(results, problem, 4)
    monkeypatch.setattr(join, "Network", None)  # no connection is made
    same_as_undisturbed({p: one(p) for p in agreed.parties}, problem, 4)
