"""One leaf of several entries of a file: a stack of layers, and a qkv of q, k and v."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jsplit
from jsplit.slicing import weight_files
from jsplit.slicing.weight_names import compiled
from tests.slicing.gguf_files import gguf_file

safetensors = pytest.importorskip("safetensors.numpy")

L, W = 3, 4
KEY = jax.random.key(0)
X = jnp.ones((2, W))
rng = np.random.default_rng(0)
FILE = {f"{n}.{i}.weight": (2 * W, W) for n in ("k", "v") for i in range(L)}
FILE |= {f"q.{i}.weight": (W, W) for i in range(L)} | {"k.9.bias": (W,)}
ENTRIES = {n: rng.normal(size=s).astype("float32") for n, s in FILE.items()}
NAMES = {
    ("q.{i}.weight", "k.{i}.weight", "v.{i}.weight"): ("blocks.qkv[{i}]", (1, 0)),
    "k.9.bias": None,
}
QKV = np.stack(
    [np.concatenate([ENTRIES[f"{n}.{i}.weight"] for n in "qkv"]).T for i in range(L)]
)


def model(params, x):
    def layer(h, w):
        return jnp.tanh((h @ w)[:, :W]), None

    return jax.lax.scan(layer, x, params["blocks"]["qkv"])[0]


def shapes(key, x):
    return {"blocks": {"qkv": jax.ShapeDtypeStruct(QKV.shape, "float32")}}


@pytest.fixture(scope="module")
def parts():
    return jsplit.split(model, X, init=shapes, cuts={"h": "blocks[1]"})


@pytest.fixture(scope="module", params=["safetensors", "gguf"])
def file(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / f"all.{request.param}"
    if request.param == "safetensors":
        safetensors.save_file(ENTRIES, path)
        return path
    return gguf_file(path, ENTRIES)


def test_a_stack_of_qkv_is_filled_from_an_entry_for_each_layer_and_each_of_the_three(
    file, parts, monkeypatch
):
    made = jsplit.load(parts, file, names=NAMES)
    mapped, memmap = [], np.memmap

    def counting(*args, **kwargs):
        mapped.append(int(np.prod(kwargs["shape"])))
        return memmap(*args, **kwargs)

    monkeypatch.setattr(weight_files.np, "memmap", counting)
    first = made["h"].init(KEY)[0]
    # Of three layers one: what the others have is not read.
    assert sum(mapped) == QKV[0].nbytes
    both = jsplit.merge(first, made["output"].init(KEY)[0])
    np.testing.assert_array_equal(both["blocks"]["qkv"], QKV)


def of(file, leaf, shape, names):
    """A leaf of a model that has it alone, as it is filled."""
    segment = jsplit.segment(
        lambda p, x: x * p[leaf].sum(),
        init=lambda key, x: {leaf: jax.ShapeDtypeStruct(shape, "float32")},
    )
    made = jsplit.load(segment, file, X, names=names)
    return made.init(KEY, X)[0][leaf]


REST = lambda *used: {n: None for n in ENTRIES if n.split(".")[0] not in used}  # noqa: E731


@pytest.mark.parametrize("axis", range(3))
def test_layers_lie_along_the_axis_that_names_say_after_the_change_of_each(file, axis):
    at = ", ".join([":"] * axis + ["{i}"])
    turned = [ENTRIES[f"q.{i}.weight"].T for i in range(L)]
    # With an order of axes, and with a function that does the same.
    for change in ((1, 0), lambda x: x.T):
        names = {"q.{i}.weight": (f"w[{at}]", change), **REST("q")}
        found = of(file, "w", np.stack(turned, axis).shape, names)
        np.testing.assert_array_equal(found, np.stack(turned, axis))


def test_a_function_is_given_all_entries_of_a_leaf_in_their_order(file):
    names = {("q.0.weight", "v.0.weight"): ("w", lambda q, v: v.sum(0) - q[1])}
    names |= {n: None for n in ENTRIES if n not in ("q.0.weight", "v.0.weight")}
    wanted = ENTRIES["v.0.weight"].sum(0) - ENTRIES["q.0.weight"][1]
    np.testing.assert_allclose(of(file, "w", (W,), names), wanted, rtol=1e-6)


REFUSED = {
    "a row is lacking": (
        {"q.0.weight": "blocks.qkv[0]", "q.2.weight": "blocks.qkv[2]"},
        r"is the row 1 of `blocks\.qkv`",
    ),
    "rows of two shapes": (
        {"q.0.weight": "blocks.qkv[0]", "k.0.weight": "blocks.qkv[1]"},
        r"`q\.0\.weight` is \[4, 4\] and `k\.0\.weight` \[8, 4\]",
    ),
    "no such leaf": (
        {"q.{i}.weight": "a.b[{i}]"},
        r"no segment has a leaf for the entries `q\.0\.weight to q\.2\.weight` -> `a\.b`",
    ),
    "fewer layers": (
        {"q.0.weight": "blocks.qkv[0]", "q.1.weight": "blocks.qkv[1]"},
        "the files have 2 layers of .*, and the model has 3",
    ),
    "one of three is lacking": (
        {("q.{i}.weight", "k.{i}.weight", "z.{i}.weight"): "blocks.qkv[{i}]"},
        r"beside the entry `q\.0\.weight` there is none of `z\.\{i\}\.weight`",
    ),
    "meant twice": (
        {("q.{i}.weight", "k.{i}.weight"): "a[{i}]", "q.{j}.weight": "b[{j}]"},
        r"the entry `q\.0\.weight` is meant twice",
    ),
    "do not follow each other": (
        {("q.0.weight", "k.9.bias"): "blocks.qkv[0]"},
        "follow each other along their first axis",
    ),
    "a leaf and its row": (
        {"q.0.weight": "blocks.qkv", "q.1.weight": "blocks.qkv[0]"},
        r"`q\.0\.weight` is the leaf `blocks\.qkv`, and `q\.1\.weight` a row",
    ),
    "two axes": (
        {"q.0.weight": "blocks.qkv[0]", "q.1.weight": "blocks.qkv[:, 1]"},
        r"two meanings of the row 1 of `blocks\.qkv`",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_whole_leaf_is_refused_by_its_entries(name, parts, tmp_path):
    names, why = REFUSED[name]
    path = tmp_path / "all.safetensors"
    safetensors.save_file(ENTRIES, path)
    meant = [p for key in names for p in (key if isinstance(key, tuple) else [key])]
    known = [compiled(p) for p in meant]
    rest = [n for n in ENTRIES if not any(p.fullmatch(n) for p in known)]
    with pytest.raises(ValueError, match=why):
        jsplit.load(parts, path, names={**names, **dict.fromkeys(rest)})
