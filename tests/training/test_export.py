"""A party's exported segments compute what the segments compute, at any batch size,
without the model's code.
"""

from __future__ import annotations

import subprocess
import sys
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jsplit
from tests.helpers import CONFIGURATIONS, make_problem, some


@pytest.mark.parametrize(
    ("configuration", "kind"),
    some(product(CONFIGURATIONS, ["cnn", "transformer"]), lambda i: (i + i // 2) % 2),
)
def test_exported_segments_predict_what_the_trainer_predicts_at_another_batch_size(
    configuration, kind
):
    problem = make_problem(configuration, kind, "nnx")
    trainer = jsplit.fused(problem.topology, optax.sgd(0.1))
    state, _ = trainer.step(trainer.init(0, problem.batch), problem.batch)
    exported = jsplit.export(problem.topology, state, problem.fields)
    fields = {n: x[:3] for n, x in problem.fields.items()}
    values = dict(fields)
    for n in problem.topology.segments:
        values[n.name] = exported[n.party][n.name].call(*[values[i] for i in n.reads])
    for name, expected in trainer.predict(state, fields).items():
        np.testing.assert_allclose(values[name], expected, rtol=1e-5, atol=1e-6)


def test_an_exported_segment_runs_where_neither_jsplit_nor_flax_is_imported(tmp_path):
    problem = make_problem("vanilla", "mlp", "nnx")
    trainer = jsplit.fused(problem.topology, optax.sgd(0.1))
    state = trainer.init(0, problem.batch)
    exported = jsplit.export(
        problem.topology, state, problem.fields, platforms=("cpu", "cuda", "tpu")
    )
    (tmp_path / "bottom").write_bytes(exported["client"]["smashed"].serialize())
    np.save(tmp_path / "x.npy", problem.fields["image"][:5])
    code = (
        "import sys, jax.export, numpy as np; from pathlib import Path; folder = Path(sys.argv[1]);"
        "run = jax.export.deserialize(bytearray((folder / 'bottom').read_bytes()));"
        "np.save(folder / 'h.npy', run.call(np.load(folder / 'x.npy')));"
        "print({'jsplit', 'flax', 'helpers'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "set()"
    bottom, own = problem.topology.node["smashed"].segment, state.parties["client"]
    expected, _ = bottom.apply(
        own.params["smashed"], {}, None, problem.fields["image"][:5], train=False
    )
    np.testing.assert_allclose(
        np.load(tmp_path / "h.npy"), expected, rtol=1e-5, atol=1e-6
    )


def test_a_missing_field_is_refused():
    problem = make_problem("vertical", "mlp", "nnx")
    state = jsplit.fused(problem.topology, optax.sgd(0.1)).init(
        jax.random.key(0), problem.batch
    )
    with pytest.raises(
        ValueError, match="`fields` lacks `right_field`; it has left_field"
    ):
        jsplit.export(
            problem.topology, state, {"left_field": problem.fields["left_field"]}
        )


def test_a_model_that_asks_how_large_the_batch_is_is_refused():
    problem = make_problem("vanilla", "mlp", "nnx")
    asks = jsplit.segment(lambda image: image * (2.0 if image.shape[0] > 3 else 1.0))
    node = jsplit.Node("asks", asks, party="client", inputs=["image"])
    topology = jsplit.Topology([node, *problem.topology.nodes], problem.topology.holds)
    state = jsplit.fused(problem.topology, optax.sgd(0.1)).init(
        jax.random.key(0), problem.batch
    )
    own = state.parties["client"]
    own = own._replace(
        params={**own.params, "asks": {}}, state={**own.state, "asks": {}}
    )
    with pytest.raises(
        ValueError,
        match="`asks` cannot be exported, it does not run with a free batch size: Inc",
    ) as error:
        jsplit.export(
            topology,
            state._replace(parties={**state.parties, "client": own}),
            problem.fields,
        )
    assert "\n" not in str(error.value)


def test_a_function_that_takes_a_key_is_exported_and_another_topology_s_state_is_refused():
    noisy = jsplit.segment(
        lambda w, x, key, train: x * w + train * jax.random.normal(key, x.shape),
        init=lambda key, x: jnp.ones(()),
        inputs=["x"],
    )
    loss = jsplit.Loss("loss", jnp.mean, "lab", ["h"])
    topology = jsplit.Topology([jsplit.Node("h", noisy, "lab"), loss], {"lab": ["x"]})
    batch = {"x": np.ones((4, 3), np.float32)}
    state = jsplit.fused(topology, optax.sgd(0.1)).init(0, batch)
    program = jsplit.export(topology, state, batch, platforms="cpu")["lab"]["h"]
    assert (
        program.platforms == ("cpu",)
        and (program.call(np.ones((2, 3), np.float32)) == 1).all()
    )
    other = jsplit.Topology(
        [jsplit.Node("g", noisy, "lab"), jsplit.Loss("loss", jnp.mean, "lab", ["g"])],
        {"lab": ["x"]},
    )
    with pytest.raises(
        ValueError,
        match="`state` is of another topology: it has nothing of the node `g` at `lab`",
    ):
        jsplit.export(other, state, batch)
