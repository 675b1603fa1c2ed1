"""The language model is the published one: against plain NumPy, and from files of both kinds."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jsplit
from experiments.common import llama, smollm
from tests.oracles import difference
from tests.slicing.gguf_files import gguf_file

safetensors = pytest.importorskip("safetensors.numpy")

CONFIG = llama.Config(
    vocabulary=19, layers=2, width=16, hidden=24, heads=4, groups=2, base=100.0
)
TOKENS = np.random.default_rng(1).integers(0, 19, (2, 6)).astype("int32")
BATCH = {"tokens": TOKENS, "label": np.roll(TOKENS, -1, axis=1)}
CUTS = {"up": "embed", "down": "blocks.0"}
DENSE = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
PROJECTIONS = ["self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o"]
PROJECTIONS += ["mlp.gate", "mlp.up", "mlp.down"]


def loss(logits, label):
    each = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    return each.mean(-1)


@cache
def weights() -> dict[str, np.ndarray]:
    """Random weights by the names of GGUF, each [out, in]."""
    rng, c = np.random.default_rng(0), CONFIG
    wide, shared, hidden = c.width, c.groups * c.size, c.hidden
    shapes = [(wide, wide), (shared, wide), (shared, wide), (wide, wide)]
    shapes += [(hidden, wide), (hidden, wide), (wide, hidden)]
    found = {"token_embd.weight": rng.normal(size=(c.vocabulary, wide))}
    for i in range(c.layers):
        for name, shape in zip(DENSE, shapes, strict=True):
            found[f"blk.{i}.{name}.weight"] = rng.normal(size=shape) / 3
        for name in ("attn_norm", "ffn_norm"):
            found[f"blk.{i}.{name}.weight"] = 1 + rng.normal(size=wide) / 3
    found["output_norm.weight"] = 1 + rng.normal(size=wide) / 3
    return {name: x.astype("float32") for name, x in found.items()}


def transformers_file(path):
    """The same weights by the names of transformers; what it computes is another model."""
    w, found = weights(), {}
    found["model.embed_tokens.weight"] = w["token_embd.weight"]
    found["model.norm.weight"] = w["output_norm.weight"]
    found["lm_head.weight"] = w["token_embd.weight"]
    for i in range(CONFIG.layers):
        at, blk = f"model.layers.{i}", f"blk.{i}"
        for ours, theirs in zip(DENSE, PROJECTIONS, strict=True):
            found[f"{at}.{theirs}_proj.weight"] = w[f"{blk}.{ours}.weight"]
        found[f"{at}.input_layernorm.weight"] = w[f"{blk}.attn_norm.weight"]
        found[f"{at}.post_attention_layernorm.weight"] = w[f"{blk}.ffn_norm.weight"]
    safetensors.save_file({n: np.array(x) for n, x in found.items()}, path)
    return path


def norm(x, scale):
    return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + CONFIG.epsilon) * scale


def turned(vector, place, halves):
    """A head's vector with its pairs turned, one by one."""
    size, out = len(vector), np.empty_like(vector)
    for i in range(size // 2):
        a, b = (i, i + size // 2) if halves else (2 * i, 2 * i + 1)
        angle = place * CONFIG.base ** (-2 * i / size)
        out[a] = vector[a] * np.cos(angle) - vector[b] * np.sin(angle)
        out[b] = vector[a] * np.sin(angle) + vector[b] * np.cos(angle)
    return out


def by_numpy(tokens, halves):
    """Logits of one row, place by place and head by head, in float64."""
    w = {name: x.astype("float64") for name, x in weights().items()}
    c, xs = CONFIG, [w["token_embd.weight"][t].astype("float64") for t in tokens]
    for i in range(c.layers):
        own = {n: w[f"blk.{i}.{n}.weight"] for n in [*DENSE, "attn_norm", "ffn_norm"]}
        keys, values, after = [], [], []
        for place, x in enumerate(xs):
            h = norm(x, own["attn_norm"])
            q, k, v = (own[n] @ h for n in DENSE[:3])
            rows = k.reshape(c.groups, c.size)
            keys.append([turned(row, place, halves) for row in rows])
            values.append(v.reshape(c.groups, c.size))
            heads = []
            for n, row in enumerate(q.reshape(c.heads, c.size)):
                group = n // (c.heads // c.groups)
                mine = turned(row, place, halves)
                scores = [mine @ k[group] / np.sqrt(c.size) for k in keys]
                share = np.exp(scores) / np.exp(scores).sum()
                seen = zip(share, values, strict=True)
                heads.append(sum(s * v[group] for s, v in seen))
            x = x + own["attn_output"] @ np.concatenate(heads)
            h = norm(x, own["ffn_norm"])
            gate = own["ffn_gate"] @ h
            gated = gate / (1 + np.exp(-gate)) * (own["ffn_up"] @ h)
            after.append(x + own["ffn_down"] @ gated)
        xs = after
    return np.stack(
        [w["token_embd.weight"] @ norm(x, w["output_norm.weight"]) for x in xs]
    )


FILES = {
    "model.gguf": (
        lambda path: gguf_file(path, weights()),
        llama.names_of_gguf(),
        False,
    ),
    "model.safetensors": (transformers_file, llama.names_of_transformers(CONFIG), True),
}


@pytest.mark.parametrize("name", FILES)
def test_logits_are_those_of_plain_numpy_from_files_of_both_orders(name, tmp_path):
    write, names, halves = FILES[name]
    file = write(tmp_path / name)
    model = llama.shapes_of(CONFIG)
    parts = jsplit.split(model, TOKENS, cuts=CUTS)
    made = jsplit.load(parts, file, names=names)
    trainer = jsplit.fused(jsplit.u_shaped(*made.values(), loss=loss), optax.sgd(0.1))
    state = trainer.init(0, BATCH)
    x = np.asarray(trainer.predict(state, {"tokens": TOKENS})["output"])
    expected = np.stack([by_numpy(row, halves) for row in TOKENS])
    assert difference(x, expected) < 2e-5 * np.abs(expected).max()
    other = np.stack([by_numpy(row, not halves) for row in TOKENS])
    assert difference(x, other) > 1e-2


def test_adapters_trained_between_clinic_and_server_are_those_trained_whole(tmp_path):
    """On a frozen file, in a U: its embedding and output layer are one weight at the clinic."""
    file = gguf_file(tmp_path / "model.gguf", weights())
    keep, names = "*.lora_*", llama.names_of_gguf(lora=True)
    model = llama.adapted(llama.shapes_of(CONFIG), 2, rngs=nnx.Rngs(0))
    parts = jsplit.split(model, TOKENS, cuts=CUTS, trainable=nnx.LoRAParam)
    parts = jsplit.load(parts, file, names=names, keep=keep)
    whole = jsplit.segment(model, trainable=nnx.LoRAParam)
    whole = jsplit.load(whole, file, TOKENS, names=names, keep=keep)
    u = jsplit.u_shaped(*parts.values(), loss=loss)
    found = []
    for topology in (jsplit.whole(whole, loss=loss), u):
        trainer = jsplit.fused(topology, optax.adam(0.1))
        state = trainer.init(0, BATCH)
        for _ in range(2):
            state, info = trainer.step(state, BATCH)
        found.append((info.loss, jsplit.variables(state)[0]))
    (alone, params), (split, same) = found
    assert difference(alone, split) < 1e-6
    assert difference(params, same) < 1e-5
    frozen = same["blocks"][1]["attention"]["q"]["base_module"]["kernel"]
    assert np.array_equal(frozen, weights()["blk.1.attn_q.weight"].T)
    assert jnp.abs(same["blocks"][1]["attention"]["q"]["lora_b"]).max() > 0.1


def test_a_file_that_lacks_a_block_is_refused(tmp_path):
    file = gguf_file(tmp_path / "model.gguf", weights())
    deeper = llama.Config(**{**vars(CONFIG), "layers": 3})
    parts = jsplit.split(llama.shapes_of(deeper), TOKENS, cuts={"up": "blocks.0"})
    with pytest.raises(ValueError, match=r"is the leaf `blocks\.2.*and 3 more"):
        jsplit.load(parts, file, names=llama.names_of_gguf())


@pytest.mark.slow  # with the weights, which `make test-slow` installs
def test_the_published_weights_speak_english():
    file = smollm.file()
    config, tokenizer = smollm.head(file)
    text = smollm.english()
    numbers = tokenizer.encode(text).ids
    assert tokenizer.decode(numbers) == text
    model, time = llama.shapes_of(config), 512
    shape = jax.ShapeDtypeStruct((1, time), "int32")
    parts = jsplit.split(model, shape, cuts={"up": "blocks.3", "down": "blocks.23"})
    parts = jsplit.load(parts, file, names=llama.names_of_gguf())
    trainer = jsplit.fused(jsplit.u_shaped(*parts.values(), loss=loss), optax.sgd(0.0))
    row = np.array([numbers[: time + 1]], "int32")
    batch = {"tokens": row[:, :-1], "label": row[:, 1:]}
    state = trainer.init(0, batch)
    assert abs(trainer.evaluate(state, batch).loss - 2.868) < 0.01
    asked = tokenizer.encode("The capital of France is").ids
    # What comes after a place changes nothing before it.
    row = np.zeros((1, time), "int32")
    row[0, : len(asked)] = asked
    logits = trainer.predict(state, {"tokens": row})["output"]
    assert tokenizer.decode([int(logits[0, len(asked) - 1].argmax())]) == " Paris"
