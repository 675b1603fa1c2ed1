"""Segments that start from a pretrained file: each reads its own part, and it must fit."""

from __future__ import annotations

import gc
import json
import threading
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import jsplit
from jsplit.core.trees import nbytes
from jsplit.party.in_memory import InMemory
from jsplit.slicing import weight_files
from tests.helpers import cross_entropy
from tests.oracles import difference
from tests.party.federation import agreed_for, bits, checked, train_in_memory
from tests.slicing.gguf_files import gguf_file

safetensors = pytest.importorskip("safetensors.flax")
gguf = pytest.importorskip("gguf")

X = np.linspace(-1, 1, 64).reshape(2, 32).astype("float32")
BATCH = {"x": X, "label": np.array([0, 1], "int32")}
LAYERS = "one", "two", "three"
NAMES = {
    "model.{layer}.weight": ("{layer}.kernel", (1, 0)),
    "model.{layer}.bias": "{layer}.bias",
    "model.{layer}.positions": None,
}
KEY = jax.random.key(0)


class Given(NamedTuple):
    topology: jsplit.Topology
    batch: dict


class Net(nnx.Module):
    """Three layers, of which the second is square."""

    def __init__(self, rngs):
        self.one = nnx.Linear(32, 32, rngs=rngs)
        self.two = nnx.Linear(32, 32, rngs=rngs)
        self.three = nnx.Linear(32, 3, rngs=rngs)

    def __call__(self, x):
        return self.three(nnx.relu(self.two(nnx.relu(self.one(x)))))


@cache
def pretrained() -> Net:
    return Net(nnx.Rngs(5))


def entries(dtype="float32") -> dict[str, jax.Array]:
    """The weights as PyTorch would save them, [out, in], and what the model does not have."""
    found = {"model.one.positions": jnp.arange(4)}
    for name, own in nnx.to_pure_dict(nnx.state(pretrained(), nnx.Param)).items():
        found[f"model.{name}.weight"] = own["kernel"].T.astype(dtype)
        found[f"model.{name}.bias"] = own["bias"].astype(dtype)
    return found


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.save_file(entries(), path)
    return path


@cache
def parts(trainable=True) -> dict[str, jsplit.Segment]:
    """Of a model without arrays."""
    model = nnx.eval_shape(lambda: Net(nnx.Rngs(0)))
    return jsplit.split(model, X, cuts={"smashed": "two"}, trainable=trainable)


@pytest.fixture
def mapped(monkeypatch):
    """The bytes of files that are mapped, as they are."""
    found: list[int] = []
    memmap = np.memmap

    def counting(*args, **kwargs):
        found.append(int(np.prod(kwargs["shape"])))
        return memmap(*args, **kwargs)

    monkeypatch.setattr(weight_files.np, "memmap", counting)
    return found


def test_a_split_model_filled_from_a_file_is_the_model_whose_weights_they_are(file):
    made = jsplit.load(parts(), file, names=NAMES)
    trainer = jsplit.fused(
        jsplit.vanilla(*made.values(), loss=cross_entropy), optax.sgd(0.1)
    )
    state = trainer.init(0, BATCH)
    assert (
        difference(trainer.predict(state, {"x": X})["output"], pretrained()(X)) < 1e-6
    )
    # In a program too, where nothing is read before it runs.
    traced = jax.jit(made["smashed"].init)(KEY)
    assert difference(traced, made["smashed"].init(KEY)) == 0


def test_a_party_reads_its_own_part_of_a_file_and_keeps_it_once(tmp_path, mapped):
    # Ten matrices in a file with holes, of which the client has one.
    side, count = 256, 10
    size = 4 * side * side
    about = {
        f"w{n}": {
            "dtype": "F32",
            "shape": [side, side],
            "data_offsets": [n * size, (n + 1) * size],
        }
        for n in range(count)
    }
    head = json.dumps(about).encode()
    path = tmp_path / "large.safetensors"
    with open(path, "wb") as out:
        out.write(len(head).to_bytes(8, "little") + head)
        out.truncate(8 + len(head) + count * size)

    def model(params, x):
        h = jsplit.cut(x @ params["w0"], "smashed")
        for n in range(1, count):
            h = h @ params[f"w{n}"]
        return h

    shape = jax.ShapeDtypeStruct((side, side), "float32")
    weights = {f"w{n}": shape for n in range(count)}
    x = jnp.ones((2, side))
    cut = jsplit.split(model, x, init=lambda key, x: weights, trainable=False)
    made = jsplit.load(cut, path)
    topology = jsplit.vanilla(*made.values(), loss=cross_entropy)
    jsplit.cost(topology, {"x": x, "label": np.zeros(2, "int32")})
    assert not mapped
    gc.collect()
    before = sum(a.nbytes for a in jax.live_arrays())
    first = made["smashed"].init(KEY)
    assert mapped == [size] and first[0]["w0"].nbytes == size
    del first
    state = jsplit.fused(topology, {}).init(0, {"x": x, "label": np.zeros(2, "int32")})
    gc.collect()
    more = sum(a.nbytes for a in jax.live_arrays()) - before
    assert count * size <= more < (count + 1) * size
    assert state.parties["client"].params["smashed"]["w0"].shape == (side, side)


def test_over_a_network_a_party_reads_its_own_part_once_and_keeps_it_once(
    file, monkeypatch
):
    made = jsplit.load(parts("*.bias"), file, names=NAMES)
    problem = Given(jsplit.vanilla(*made.values(), loss=cross_entropy), BATCH)
    rates = dict.fromkeys(problem.topology.parties, optax.adam(0.01))
    trainer = jsplit.messages(problem.topology, rates)
    state = trainer.init(jax.random.key(3), BATCH)
    state, _ = trainer.step(state, BATCH)
    read: dict[int, int] = {}
    memmap = np.memmap

    def counting(*args, **kwargs):
        thread = threading.get_ident()
        read[thread] = read.get(thread, 0) + int(np.prod(kwargs["shape"]))
        return memmap(*args, **kwargs)

    monkeypatch.setattr(weight_files.np, "memmap", counting)
    save, copied = InMemory.save, []

    def saving(store, state):
        save(store, state)
        kept = store.kept[int(state.step)]
        copied.append({x.ndim for x in jax.tree.leaves(kept.params)})

    monkeypatch.setattr(InMemory, "save", saving)
    agreed = agreed_for(problem, steps=1)
    assert not read
    results = checked(train_in_memory(agreed, problem, rates))
    own = {p: nbytes(x.params) for p, x in state.parties.items()}
    assert sorted(read.values()) == sorted(own.values())
    # Of what is trained, the vectors, and of no kernel.
    assert len(copied) >= 2 and all(dims == {1} for dims in copied)
    for party, held in state.parties.items():
        assert bits(results[party].state) == bits(held)


def test_adapters_stay_and_the_rest_is_read(file, mapped):
    model = nnx.eval_shape(lambda: Net(nnx.Rngs(0)))
    rngs = nnx.Rngs(3)
    lora = nnx.LoRA(32, 2, 32, base_module=model.one, rngs=rngs)
    setattr(model, "one", lora)  # noqa: B010  # which is no `Linear` to a checker
    names = {
        "model.one.weight": ("one.base_module.kernel", (1, 0)),
        "model.one.bias": "one.base_module.bias",
    }
    rest = {n: t for n, t in NAMES.items() if t is not None}

    def aim(entry):
        layer, what = entry.split(".")[1:]
        if what == "positions" or layer == "one":
            return names.get(entry)
        target = rest[f"model.{{layer}}.{what}"]
        path = target if isinstance(target, str) else target[0]
        path = path.replace("{layer}", layer)
        return path if isinstance(target, str) else (path, lambda x: x.T)

    segment = jsplit.segment(model, trainable=nnx.LoRAParam)
    made = jsplit.load(segment, file, X, names=aim, keep="one.lora_*")
    params, state = made.init(KEY, X)
    assert difference(params["one"]["lora_a"], lora.lora_a[...]) == 0
    assert difference(made.apply(params, state, KEY, X)[0], pretrained()(X)) < 1e-6


def test_of_linen_what_is_kept_is_drawn_and_the_rest_is_read(file):
    class Dense(linen.Module):
        @linen.compact
        def __call__(self, x):
            for name in LAYERS[:2]:
                x = linen.relu(linen.Dense(32, name=name)(x))
            return linen.Dense(7, name="new")(x)

    segment = jsplit.segment(Dense())
    with pytest.raises(ValueError, match=r"give `load` an example"):
        jsplit.load(segment, file, names=NAMES, keep="new", partial=True)
    made = jsplit.load(segment, file, X, names=NAMES, keep="new", partial=True)
    params, _ = made.init(KEY, X)
    drawn = Dense().init(KEY, X)["params"]["new"]
    assert difference(params["new"], drawn) < 1e-6
    assert difference(params["two"]["kernel"], pretrained().two.kernel[...]) == 0


def test_a_quantised_file_is_what_its_format_says_and_several_files_are_one(tmp_path):
    own = entries()
    quantised = gguf.GGMLQuantizationType.Q8_0
    plain = {n: np.asarray(x) for n, x in own.items() if not n.endswith("positions")}
    narrow = {
        name: gguf.quants.quantize(x, quantised)
        for name, x in plain.items()
        if name.endswith("weight")
    }
    path = gguf_file(
        tmp_path / "model.gguf", plain | narrow, dict.fromkeys(narrow, quantised)
    )
    back = {n: gguf.quants.dequantize(raw, quantised) for n, raw in narrow.items()}
    expected = plain | back
    found = jsplit.load(parts(), path, names=NAMES)["smashed"].init(KEY)[0]
    for layer in LAYERS[:2]:
        weight = expected[f"model.{layer}.weight"]
        assert np.array_equal(found[layer]["kernel"], weight.T)
        assert 0 < difference(weight, own[f"model.{layer}.weight"]) < 0.02

    where = {name: f"{len(name) % 2}.safetensors" for name in own}
    for part in {*where.values()}:
        inside = {n: x for n, x in own.items() if where[n] == part}
        # What the index has in another file is an old one.
        old = {n: jnp.zeros(1) for n in own if where[n] != part}
        safetensors.save_file(inside | old, tmp_path / part)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    found = jsplit.load(parts(), index, names=NAMES)["output"].init(KEY)[0]
    assert difference(found["three"]["kernel"], pretrained().three.kernel[...]) == 0
    two = [tmp_path / part for part in {*where.values()}]
    with pytest.raises(ValueError, match=r"`model\.\S+` is in .* and in "):
        jsplit.load(parts(), two, names=NAMES)


def test_of_another_precision_is_read_where_the_user_says_so(tmp_path):
    path = tmp_path / "half.safetensors"
    safetensors.save_file(entries("bfloat16"), path)
    with pytest.raises(
        ValueError, match=r"`one\.bias` is float32\[32\], .* is bfloat16"
    ):
        jsplit.load(parts(), path, names=NAMES)
    made = jsplit.load(parts(), path, names=NAMES, cast=True)["output"].init(KEY)[0]
    expected = pretrained().three.kernel[...].astype("bfloat16")
    assert made["three"]["kernel"].dtype == "float32"
    assert difference(made["three"]["kernel"], expected.astype("float32")) == 0


PLAIN = {**NAMES, "model.{layer}.weight": "{layer}.kernel"}
LEFT = {n: t for n, t in NAMES.items() if t is not None}
OTHER = {**NAMES, "model.{layer}.bias": "{layer}.offset"}
INTEGERS = {
    **{f"model.{layer}.weight": (f"{layer}.kernel", (1, 0)) for layer in LAYERS},
    **{f"model.{layer}.bias": f"{layer}.bias" for layer in LAYERS[1:]},
    "model.one.positions": "one.bias",
    "model.one.bias": None,
}
REFUSED = {
    "turned": (dict(names=PLAIN), r"`three\.kernel` is float32\[32,3\].*\(1, 0\)"),
    "square": (dict(names=PLAIN), r"`model\.two\.weight` is square"),
    "left over": (dict(names=LEFT), r"nothing of the entries `model\.one\.positions`"),
    "no such leaf": (
        dict(names=OTHER),
        r"no segment.*`model.one.bias` -> `one.offset`",
    ),
    "lacking": (dict(names=OTHER, partial=True), r"the leaf `one\.bias`, `two\.bias`"),
    "integers": (
        dict(names=INTEGERS, cast=True),
        r"`one\.bias` is float32\[32\], but `model\.one\.positions` is int32",
    ),
    "twice": (
        dict(names=lambda n: "one.bias"),
        r"two entries for the leaf `one\.bias`",
    ),
    "two patterns": (dict(names={**NAMES, "model.one.bias": None}), r"is meant by"),
    "no place": (dict(names={"model.{i}.{w}": "{j}.b"}), r"has \{j\}, and .* not"),
    "axes": (dict(names=lambda n: (n, (0, 0))), r"order of axes.*got \[0, 0\]"),
    "rank": (
        dict(names={**NAMES, "model.{layer}.bias": ("{layer}.bias", (1, 0))}),
        r"`model\.one\.bias` is float32\[32\], and `names` says \(1, 0\)",
    ),
    "no value": (dict(names=NAMES, keep="one"), r"`one\.bias`.*only the shape"),
    "keeps nothing": (dict(names=NAMES, keep="lora"), r"`keep` has 'lora'"),
    "kind": (dict(names=3), r"`names` must be a dictionary"),
}


@pytest.mark.parametrize("given, message", REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_by_its_paths(given, message, file):
    with pytest.raises(ValueError, match=message):
        jsplit.load(parts(), file, **given)


def test_a_file_that_is_not_whole_or_has_changed_is_refused(file, tmp_path):
    made = jsplit.load(parts(), file, names=NAMES)
    whole = file.read_bytes()
    file.write_bytes(whole[:-8])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        jsplit.load(parts(), file, names=NAMES)
    with pytest.raises(ValueError, match="has changed since its names were read"):
        made["smashed"].init(KEY)
    (tmp_path / "weights.bin").write_bytes(whole)
    for name, message in {"weights.bin": "must be of", "no.gguf": "no file"}.items():
        with pytest.raises(ValueError, match=message):
            jsplit.load(parts(), tmp_path / name, names=NAMES)
    (tmp_path / "broken.gguf").write_bytes(whole)
    with pytest.raises(ValueError, match="not a whole GGUF file"):
        jsplit.load(parts(), tmp_path / "broken.gguf", names=NAMES)
