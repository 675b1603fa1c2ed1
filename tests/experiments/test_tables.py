"""The networks of the paper's tables have their published sizes, and the tables come out."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import jsplit
from experiments.common.vision import PUBLISHED, resnet, shapes, vgg
from experiments.paper import tables

IMAGE = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)


@pytest.mark.parametrize(("name", "depth"), PUBLISHED)
def test_parameters_are_the_published_ones_to_the_unit(name, depth):
    model = shapes({"vgg": vgg, "resnet": resnet}[name], depth)
    assert (
        sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
        == PUBLISHED[name, depth]
    )


def vgg_forward(depth):
    """Multiply-accumulates of one image, by hand: a closed form over the paper's Table 1."""
    from experiments.common.vision import VGG

    total, inputs, size = 0, 3, 224
    for block, count in enumerate(VGG[depth]):
        for _ in range(count):
            out = min(64 * 2**block, 512)
            total, inputs = total + size**2 * 9 * inputs * out, out
        size //= 2
    return total + size**2 * inputs * 4096 + 4096 * 4096 + 4096 * 1000


@pytest.mark.parametrize("depth", [11, 19])
def test_vgg_costs_the_closed_form(depth):
    *_, last = jsplit.cut_points(shapes(vgg, depth), IMAGE)
    assert last.forward_macs == vgg_forward(depth)


def test_vgg_19_costs_what_fits_the_paper():
    assert vgg_forward(19) == 19_632_062_464
    assert 3 * vgg_forward(19) * 500 == pytest.approx(29.448e12, rel=1e-4)


def test_a_residual_network_halves_its_images_where_the_paper_does():
    points = {p.name: p.shape for p in jsplit.cut_points(shapes(resnet, 50), IMAGE)}
    stages = [(56, 56, 256), (28, 28, 512), (14, 14, 1024), (7, 7, 2048)]
    assert [points[f"stage{s}.0"] for s in (1, 2, 3, 4)] == stages


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("tables")
    rows = tables.main(["--out", str(out)])
    assert json.loads((out / "tables.json").read_text()).keys() == rows.keys()
    assert (out / "tables_regimes.png").stat().st_size > 10_000
    return rows


@pytest.mark.slow
def test_table_1_is_reproduced(found):
    """SGD and federated averaging within 1 %; split learning between its two neighbouring cuts."""
    for row in found["table1"]["rows"]:
        if row["method"] != "split":
            assert row["by_rule"] == pytest.approx(row["paper"], rel=0.01)
            assert row["counted"] == pytest.approx(row["paper"], rel=0.01)
    for clients in tables.CLIENTS:
        near = {
            c["cut"]: c["by_rule"] / c["paper"]
            for c in found["table1"]["cuts"]
            if c["clients"] == clients
        }
        assert 0.8 < near["conv1_1/relu"] < 1 < 18 < near["conv1_2"]


@pytest.mark.slow
def test_table_2_has_its_pattern(found):
    """Split learning's bytes fall with local records and cross those of federated averaging between 100 and 500 clients."""
    ours = {(r["method"], r["clients"]): r["ours"] for r in found["table2"]["rows"]}
    paper = {(r["method"], r["clients"]): r["paper"] for r in found["table2"]["rows"]}
    assert ours["split", 100] == pytest.approx(5 * ours["split", 500], rel=1e-3)
    assert all(
        ours["split", n] == pytest.approx(paper["split", n], rel=0.01)
        for n in tables.CLIENTS
    )
    assert (
        ours["split", 100] > ours["federated", 100]
        and ours["split", 500] < ours["federated", 500]
    )
    assert 100 < found["table2"]["crossover"] < 500
