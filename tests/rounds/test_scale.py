"""Laws of populations that do not fit: records in files, and clients whose state is on the host."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsplit
from jsplit import population, rounds
from jsplit.populations.stored import is_stored

RECORDS, CLIENTS = 60, 12


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.low, self.top = (nnx.Linear(*io, rngs=rngs) for io in ((3, 4), (4, 2)))
        self.drop = nnx.Dropout(0.2, rngs=rngs)

    def __call__(self, x):
        return self.top(jsplit.cut(self.drop(self.low(x)), "smashed"))


def in_memory():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(RECORDS, 3)).astype("float32")
    return {"x": x, "label": rng.integers(0, 2, RECORDS).astype("int32")}


@cache
def trainer():
    parts = jsplit.split(Net(nnx.Rngs(0)), in_memory()["x"][:4])
    loss = optax.softmax_cross_entropy_with_integer_labels
    topology = jsplit.vanilla(*parts.values(), loss=loss)
    return jsplit.fused(topology, optax.sgd(0.1, 0.9))


@cache
def own_bottoms():
    return rounds.splitfed(trainer(), "client", version=3)


@cache
def own_on_host():
    return rounds.on_host(own_bottoms())


def people():
    return population.quantity(RECORDS, CLIENTS, alpha=3.0)


def drawn(fields, number):
    return people().round(fields, number, batch=3, clients=4)


def trained(algorithm, fields, count=3):
    state = algorithm.init(0, drawn(fields, 0))
    for number in range(count):
        state, info = algorithm.step(state, drawn(fields, number))
    return state, info


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


class Counted:
    """Records by number, as a data source of grain has them, and which were asked for."""

    def __init__(self, fields):
        self.fields, self.asked = fields, []

    def __len__(self):
        return RECORDS

    def __getitem__(self, number):
        self.asked.append(number)
        return {name: x[number] for name, x in self.fields.items()}


def test_what_lies_in_a_file_is_told_by_its_memory(tmp_path):
    x = in_files("memory-mapped", tmp_path)["x"]
    for in_file in (x, np.asarray(x), x[3:].T, population.stored(np.ones(2))):
        assert is_stored(in_file)
    for in_memory_now in (x[np.array([1, 2])], x + 1, np.ones(2), 3.0):
        assert not is_stored(in_memory_now)


def in_files(kind, folder):
    fields = in_memory()
    if kind == "source":
        return population.stored(Counted(fields))
    if kind == "large":
        return fields
    for name, x in fields.items():
        np.save(folder / f"{name}.npy", x)
    found = {n: np.load(folder / f"{n}.npy", mmap_mode="r") for n in fields}
    if kind == "array of rows":
        return {n: population.stored(x) for n, x in found.items()}
    return found if kind == "memory-mapped" else {**fields, "x": found["x"]}


@pytest.mark.parametrize(
    "kind", ["memory-mapped", "array of rows", "source", "one of two fields", "large"]
)
def test_records_by_rows_train_to_the_bit_as_those_in_memory(
    kind, tmp_path, monkeypatch
):
    fields = in_files(kind, tmp_path)
    if kind == "large":
        # As if these few arrays were of many gigabytes; a round reads a part of them.
        monkeypatch.setattr("jsplit.rounds.gathering._LARGE", 1)
    found = trained(own_bottoms(), fields)
    monkeypatch.undo()
    wanted = trained(own_bottoms(), in_memory())
    same(found, wanted)


@pytest.mark.slow
def test_records_by_rows_are_measured_to_the_bit_as_those_in_memory(tmp_path):
    state, _ = trained(own_bottoms(), in_memory(), 1)
    fields = in_files("memory-mapped", tmp_path)
    by_rows, plain = (people().round(x, 7, batch=3) for x in (fields, in_memory()))
    same(*(own_bottoms().evaluate(state, r) for r in (by_rows, plain)))


def test_a_round_reads_its_own_records_of_a_source_and_no_other():
    source = Counted(in_memory())
    fields = population.stored(source)
    one = drawn(fields, 0)
    source.asked.clear()
    own_bottoms().step(own_bottoms().init(0, one), one)
    assert sorted(source.asked) == np.unique(one.reads).tolist()


def test_rounds_of_other_numbers_of_records_share_a_program():
    from jsplit.rounds.gathering import Gathering

    gathering, fields, sizes = Gathering(), population.stored(in_memory()["x"]), []
    for number in range(12):
        one = drawn({"x": fields}, number)
        [found], rows = gathering([one], {"x"})
        assert rows is not None
        sizes.append(len(found.fields["x"]))
        np.testing.assert_array_equal(rows[found.reads], one.reads)
    # Never smaller again, so shapes come to an end.
    assert sizes == sorted(sizes)
    assert len(set(sizes)) <= 4


@pytest.mark.slow
def test_a_record_names_places_in_the_data_set(tmp_path):
    recording = jsplit.record(own_on_host())
    one = drawn(in_files("memory-mapped", tmp_path), 1)
    _, info = recording.step(recording.init(0, one), one)
    told = info.recorded
    assert told is not None
    assert told.client.tolist() == one.client.tolist()
    taken = np.asarray(told.taken)
    assert np.asarray(told.reads)[taken].tolist() == one.reads[taken].tolist()


def test_a_loop_over_epochs_reads_files_by_rows(tmp_path):
    from jsplit.fitting.client_rounds import on_device

    fields = in_files("one of two fields", tmp_path)
    found = on_device({**fields, "other": population.stored(fields["x"])})
    assert isinstance(found["x"], np.ndarray)
    assert np.shares_memory(found["x"], fields["x"])
    assert isinstance(found["other"], population.Stored)
    assert isinstance(found["label"], jax.Array)


def test_stored_refuses_what_has_no_records_and_records_that_differ():
    with pytest.raises(ValueError, match="`source` must have a length"):
        population.stored([])
    with pytest.raises(ValueError, match="holds no record"):
        population.stored(np.zeros((0, 3)))
    ragged = population.stored([np.zeros(3), np.zeros(3), np.zeros(3, "f")])
    with pytest.raises(ValueError, match="records of `source` differ"):
        ragged[np.array([0, 2])]


def test_a_file_that_lacks_a_client_s_record_is_refused(tmp_path):
    short = {n: x[:-1] for n, x in in_files("memory-mapped", tmp_path).items()}
    with pytest.raises(ValueError, match="`fields` has 59 records"):
        drawn(short, 0)


def test_clients_on_the_host_train_to_the_bit_as_on_the_device():
    found, wanted = (trained(x, in_memory()) for x in (own_on_host(), own_bottoms()))
    same(found[0].client(5), wanted[0].client(5))
    same(found[1], wanted[1])
    for client in range(CLIENTS):
        same(*(jsplit.variables(s, client=client) for s in (found[0], wanted[0])))
    fields = {"x": in_memory()["x"]}
    same(
        own_on_host().predict(found[0], fields, client=3),
        own_bottoms().predict(wanted[0], fields, client=3),
    )


@pytest.mark.slow
def test_clients_on_the_host_are_measured_to_the_bit_as_on_the_device():
    everybody = people().round(in_memory(), 9, batch=3)
    made = own_on_host(), own_bottoms()
    same(*(x.evaluate(trained(x, in_memory(), 1)[0], everybody) for x in made))


def test_several_rounds_on_the_host_are_those_one_by_one():
    many = [drawn(in_memory(), n) for n in range(3)]
    state, infos = own_on_host().run(own_on_host().init(0, many[0]), many)
    one, info = trained(own_on_host(), in_memory())
    same(jsplit.variables(state, client=2), jsplit.variables(one, client=2))
    same(infos.loss[-1], info.loss)


def test_a_state_on_the_host_stays_valid_and_shares_the_rows_that_stay():
    one = drawn(in_memory(), 0)
    first = own_on_host().init(0, one)
    before = first.client(int(one.client[0]))
    new, _ = own_on_host().step(first, one)
    same(first.client(int(one.client[0])), before)
    old, now = (s.parties["client"].params["smashed"] for s in (first, new))
    old, now = jax.tree.leaves(old)[0], jax.tree.leaves(now)[0]
    shared = [k for k in range(CLIENTS) if old._rows[k] is now._rows[k]]
    assert shared == sorted({*range(CLIENTS)} - {*one.client.tolist()})
    # Nobody has trained before: one row in memory, whatever the number of clients.
    assert len({*map(id, old._rows)}) == 1


def test_a_state_on_the_host_is_saved_and_read(tmp_path):
    state, _ = trained(own_on_host(), in_memory(), 2)
    jsplit.save(tmp_path / "state", state)
    like = own_on_host().init(1, drawn(in_memory(), 0))
    read = jsplit.restore(tmp_path / "state", like)
    after = [own_on_host().step(s, drawn(in_memory(), 2)) for s in (state, read)]
    same(*(jsplit.variables(s, client=4) for s, _ in after))
    same(after[0][1], after[1][1])


def test_a_state_of_other_clients_is_refused_on_the_host():
    state, _ = trained(own_on_host(), in_memory(), 1)
    fewer = population.iid(RECORDS, CLIENTS - 1).round(in_memory(), 0, batch=3)
    with pytest.raises(ValueError, match="the round is of 11 clients"):
        own_on_host().step(state, fewer)


def test_groups_are_in_order_and_everyone_shares_one_array():
    names = np.array(list("cabcab"))
    found = population.grouped(names)
    assert [r.tolist() for r in found.records] == [[1, 4], [2, 5], [0, 3]]
    every = population.everyone(records=9, clients=1000)
    assert len({*map(id, every.records)}) == 1


class Watched(np.ndarray):
    """A client's records, and how often any client's were looked through."""

    looks = 0

    def max(self, *args, **kwargs):
        Watched.looks += 1
        return np.asarray(self).max(*args, **kwargs)


def test_a_round_looks_through_the_records_of_all_clients_once_and_never_again():
    records = tuple(np.arange(3 * i, 3 * i + 3).view(Watched) for i in range(20))
    many = population.Population(records, tuple(map(str, range(20))))
    for number in range(3):
        many.round(in_memory(), number, batch=3, clients=2)
    assert Watched.looks == 20
