"""What a party shows of itself: certificates for a while, and of its ids nothing."""

from __future__ import annotations

import logging
import os
import threading
import time
from datetime import UTC, datetime, timedelta

import jax
import numpy as np
import pytest

import jsplit
from jsplit import party
from jsplit.core.base import PartyState, TrainState
from jsplit.core.checkpoint import save
from jsplit.core.files import plain_file, write_whole
from jsplit.party.connection.connections import _check_identity
from jsplit.party.contract.ids_key import LEAST, key_of, made, secret_of, told
from jsplit.party.contract.record_order import Records
from jsplit.party.join import prepare
from jsplit.party.task import INFERENCE, Brought, Task, TaskKind
from jsplit.wire.certs import PlaintextWithoutIdentity, authority
from jsplit.wire.control import Status
from jsplit.wire.same_records import same_records
from tests.party import federation
from tests.party.federation import (
    IDS_KEY,
    Proxy,
    agreed_for,
    bits,
    checked,
    optimizers,
    own_of,
    small,
    together,
    undisturbed,
)


def of_ids(ids, secret=b"", schema="s", **given):
    fields = {"x": np.zeros(len(ids))}
    return Records(
        fields, ids, key=key_of(schema, secret), secret=bool(secret), **given
    )


def predicted(problem, agreed, ids_key=None, name="lab"):
    """What a party tells the lead of its records, before a prediction of one."""
    task = Task(TaskKind.PREDICT, 1, agreed.batch, 1)
    brought = Brought(
        problem.topology,
        party.PlaintextWithoutIdentity(name),
        data={f: x[:1] for f, x in own_of(problem, name).items() if f != "label"},
        ids=[7654321],
        ids_key=ids_key,
        optimizer=INFERENCE,
    )
    with prepare(agreed, name, task, brought) as prepared:
        return prepared.member.status.records[""]


def test_the_ids_of_few_records_are_told_to_nobody_who_could_try_all_that_there_are():
    pair, several = small("pair"), small()
    # Nobody else has records in it, so there is nothing to compare.
    assert predicted(pair, agreed_for(pair), name="client") == (1, None)
    message = "`ids_key` must be given, the same at all who hold records: the lead"
    with pytest.raises(ValueError, match=message):
        predicted(several, agreed_for(several))
    agreed = agreed_for(several)
    count, digest = predicted(several, agreed, IDS_KEY)
    # What the lead knows is the agreement; it has no key to try with.
    guesses = (
        of_ids([i], schema=agreed.schema).digest for i in range(7654300, 7654340)
    )
    assert count == 1 and digest and digest.removeprefix("keyed ") not in {*guesses}
    tried = (of_ids([i], IDS_KEY, agreed.schema).digest for i in (7654320, 7654321))
    assert digest == [*tried][1]


def test_a_digest_without_a_key_is_of_many_ids_and_never_of_weights_alone(caplog):
    many = list(range(LEAST))
    with caplog.at_level(logging.WARNING):
        assert told(of_ids(many), "", alone=False) == of_ids(many).digest
    assert "who knows all of them but a few" in caplog.text
    # Nobody else has any, so there is nothing to compare.
    for records in (of_ids(many), of_ids(many, IDS_KEY)):
        assert records.digest is not None and told(records, "", alone=True) is None
    weights = {"counts": np.ones(500)}
    for records, what in (
        (of_ids(many[1:]), f"fewer than {LEAST} ids"),
        (Records(weights, key=b"s", weight="counts"), "weights"),
    ):
        assert records.digest is not None and told(records, "", alone=True) is None
        with pytest.raises(ValueError, match=f"of `north`.* one of {what}") as error:
            told(records, "north", alone=False)
        assert "31" not in str(error.value)
    keyed = Records(weights, key=key_of("s", IDS_KEY), secret=True, weight="counts")
    assert told(keyed, "", alone=False) == keyed.digest
    # Keyed by both: the same ids in another run are not seen to be the same.
    secrets = (b"", IDS_KEY, IDS_KEY + b"1", 100 * IDS_KEY)
    digests = {of_ids(many, s, a).digest for s in secrets for a in ("s", "t")}
    assert len(digests) == 8


def test_parties_with_other_keys_are_told_that_it_may_be_the_key():
    def compared(*records):
        said = zip(("lab", "clinic"), records, strict=True)
        return same_records(
            {p: Status(1, 0, (0,), {"": (3, r.digest)}) for p, r in said}
        )

    mine = of_ids([1, 2, 3], IDS_KEY)
    assert compared(mine, of_ids([3, 2, 1], IDS_KEY)) == {"": 3}
    with pytest.raises(party.Refused, match="or the `ids_key`, of `clinic` are not"):
        compared(mine, of_ids([1, 2, 3], b"another key of another"))
    with pytest.raises(party.Refused, match="`clinic` gave no `ids_key`, others did"):
        compared(mine, of_ids([1, 2, 3]))


def test_a_key_of_ids_is_its_owners_alone_and_long_enough(tmp_path):
    file = made(tmp_path / "keys" / "ids.key")
    assert len({secret_of(file), secret_of(made(tmp_path / "other.key"))}) == 2
    assert secret_of(None) == b"" and secret_of(str(file)) == secret_of(file)
    with pytest.raises(ValueError, match="not written over"):
        made(file)
    for wrong, message in (
        (b"short", "`ids_key` must have 16 bytes or more"),
        (tmp_path / "none", "there is no file .*none"),
        (3, "`ids_key` must be bytes or a file, got int"),
    ):
        with pytest.raises(ValueError, match=message):
            secret_of(wrong)
    if os.name == "posix":
        file.chmod(0o644)
        with pytest.raises(ValueError, match=f"chmod 600 {file}"):
            secret_of(file)


def modes(folder):
    return {
        str(f.relative_to(folder)): f.stat().st_mode & 0o777 for f in folder.rglob("*")
    }


@pytest.fixture
def open_mask():
    before = os.umask(0)
    yield
    os.umask(before)


def test_what_a_party_writes_is_its_owners_alone_whatever_the_umask(
    tmp_path, open_mask, caplog
):
    problem = small("pair")
    agreed = agreed_for(problem, steps=2, checkpoint=1)
    folder = tmp_path / "runs" / "first"
    (tmp_path / "theirs").mkdir()
    # An older version has left it so.
    (tmp_path / "theirs" / "done.json.tmp").touch(0o644)
    where = {"client": folder / "client", "server": tmp_path / "theirs"}
    with caplog.at_level(logging.WARNING):
        checked(federation.train(agreed, problem, checkpoint=lambda p: where[p]))
    found = modes(tmp_path)
    assert found.pop("theirs") == 0o777  # a folder of the user's own stays as it is
    assert f"{where['server']} can be written by others" in caplog.text
    assert str(where["client"]) not in caplog.text
    assert {n for n, mode in found.items() if mode == 0o700} == {
        n for n in found if (tmp_path / n).is_dir()
    }
    assert {n for n, mode in found.items() if mode == 0o600} == {
        n for n in found if (tmp_path / n).is_file()
    }
    assert len(found) > 10


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_in_the_place_of_a_temporary_file_leads_nowhere(tmp_path, link):
    """Whoever may write into a folder would else choose what is written over."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    state = TrainState({"lab": PartyState({}, {}, (), {}, jax.random.key(0), 0)})
    for write, name in (
        (lambda: write_whole(tmp_path / "about.json", "{}"), "about.json"),
        (lambda: save(tmp_path, state), "lab.npz"),
    ):
        link(victim, tmp_path / f"{name}.tmp")
        write()
        assert victim.read_text() == "precious" and not victim.is_symlink()
    assert {f.name for f in tmp_path.iterdir()} == {"about.json", "lab.npz", "victim"}


def test_a_certificate_that_is_another_s_is_refused_before_anybody_is_waited_for():
    """The others would know its party by another URI, or take it for another."""
    agreed, trust = agreed_for(small("pair")), authority(["client", "mallory"])
    _check_identity(agreed, "client", trust["client"])
    _check_identity(agreed, "client", PlaintextWithoutIdentity("client"))
    with pytest.raises(
        ValueError, match="`client` names .*mallory, .* must name .*client"
    ):
        _check_identity(agreed, "client", trust["mallory"])
    other = agreed.replace(identities={"client": "spiffe://x/client"})
    with pytest.raises(ValueError, match="must name spiffe://x/client"):
        _check_identity(other, "client", trust["client"])


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, None])
def test_what_numbers_processes_is_a_plain_file_of_jsplit_s_own(tmp_path, make):
    """A link would be added to where it leads, and a pipe be waited at."""
    victim, process = tmp_path / "victim", tmp_path / "state" / "process"
    victim.write_text("precious")
    victim.chmod(0o644)
    process.parent.mkdir()
    process.symlink_to(victim) if make is None else make(process)
    with pytest.raises(ValueError, match="must be a plain file of jsplit's own"):
        plain_file(process)
    assert victim.read_text() == "precious" and victim.stat().st_mode & 0o777 == 0o644
    with plain_file(tmp_path / "state" / "other") as f:
        f.write(b"1")
    with plain_file(tmp_path / "state" / "other") as f:
        f.write(b"2")
    assert (tmp_path / "state" / "other").read_bytes() == b"12"


def test_outputs_and_certificates_are_their_owners_alone(tmp_path, open_mask):
    from jsplit.commands.tasks import _write

    (tmp_path / "old.npz").touch(0o644)
    for name in ("new", "old.npz"):
        file = _write(tmp_path / name, {"y": np.arange(3)})
        assert file.suffix == ".npz" and (np.load(file)["y"] == np.arange(3)).all()
        assert file.stat().st_mode & 0o777 == 0o600
    jsplit.party.certs(tmp_path / "certs", ["lab"])
    found = modes(tmp_path)
    assert (found["certs"], found["certs/lab.key"]) == (0o700, 0o600)


LIFE = timedelta(seconds=3)


def test_a_run_outlives_its_certificates_while_its_connections_are_cut(tmp_path):
    """As with certificates of an hour, which a program renews: here they last seconds."""
    problem, steps = small("pair"), 12
    agreed = agreed_for(problem, steps=steps, checkpoint=4)
    over, tops = threading.Event(), []

    def renew():
        start = datetime.now(UTC).replace(microsecond=0)
        made = authority(agreed.parties, LIFE.total_seconds() / 86400, start=start)
        tops.insert(0, made["server"].authority)
        del tops[20:]
        for p, own in made.items():
            folder = tmp_path / p
            folder.mkdir(exist_ok=True)
            # Nobody shows a certificate before all know its authority; and not in one step:
            # whoever reads between two of these gets a key that is not the certificate's.
            for name, data in (
                ("ca.crt", b"".join(tops)),
                (f"{p}.key", own.key),
                (f"{p}.crt", own.certificate),
            ):
                with open(
                    folder / name, "wb", opener=lambda f, w: os.open(f, w, 0o600)
                ) as f:
                    f.write(data)
        return start

    first = renew()

    def keep_on():
        while not over.wait(0.4):
            renew()

    proxy = Proxy(int(agreed.addresses["server"].split(":")[1]))
    rates = optimizers(problem.topology)

    def one(p):
        batch = own_of(problem, p)

        def on_step(m):
            if p == "server" and m.step % 3 == 0:
                while m.step == 9 and datetime.now(UTC) < first + LIFE:
                    time.sleep(0.05)  # until the first certificates count no more
                proxy.cut()

        return party.run(
            agreed,
            p,
            problem.topology,
            lambda step: batch,
            credentials=party.credentials(tmp_path / p, p),
            optimizer=rates[p],
            remind=0.3,
            on_step=on_step,
            addresses={"server": f"127.0.0.1:{proxy.port}"},
        )

    renewing = threading.Thread(target=keep_on, daemon=True)
    renewing.start()
    try:
        results = checked(together(agreed.parties, one))
    finally:
        over.set()
        renewing.join()
        proxy.close()
    states = undisturbed(problem, steps)
    assert all(bits(r.state) == bits(states[p]) for p, r in results.items())
    assert proxy.faults == steps // 3 and datetime.now(UTC) > first + LIFE
