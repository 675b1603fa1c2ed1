"""The layers of the design: who may import whom, and what `import jsplit` must not bring in."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jsplit

SOURCE = Path(jsplit.__file__).parent
LAYERS = {
    "core.base": set(),
    "jaxprs.flat": set(),
    "core.tables": set(),
    "jaxprs.macs": {"jaxprs.flat"},
    "topology.nodes": {"core.base"},
    "topology.graph": {"core.base", "topology.nodes"},
    "compress": {"core.base"},
    "core.checkpoint": {"core.base"},
    "segments.interception": {"core.base", "jaxprs.flat"},
    "segments.segment": {"core.base", "segments.interception"},
    "slicing.separators": {"core.base", "jaxprs.flat"},
    "segments.precision": {"core.base", "segments.segment", "segments.interception"},
    "topology.configurations": {"core.base", "segments.segment", "topology.nodes", "topology.graph"},
    "slicing.traced_model": {"core.base", "segments.segment", "slicing.separators", "jaxprs.flat", "segments.interception"},
    "slicing.ownership": {"core.base", "slicing.separators", "jaxprs.flat", "slicing.traced_model"},
    "slicing.cut_points": {
        "core.base",
        "jaxprs.macs",
        "segments.segment",
        "slicing.ownership",
        "slicing.separators",
        "jaxprs.flat",
        "slicing.traced_model",
    },
    "slicing.merge": {"core.base", "segments.segment", "slicing.traced_model"},
    "slicing.split": {
        "core.base",
        "slicing.cut_points",
        "segments.segment",
        "slicing.ownership",
        "jaxprs.flat",
        "segments.interception",
        "slicing.traced_model",
    },
    "topology.drawing.scene": {"topology.nodes", "topology.graph"},
    "topology.drawing.layout": {"topology.drawing.scene", "topology.graph"},
    "topology.drawing.draw": {"topology.drawing.layout", "topology.drawing.scene", "topology.graph"},
    "training.walk": {"core.base"},
    "training.vjp": {"core.base"},
    "rounds.loops": {"core.base", "jaxprs.flat"},
    "rounds.averages": set(),
    "population": {"core.base"},
    "topology.decoupled": {"core.base", "topology.nodes", "topology.graph"},
    "training.staleness": {"core.base"},
    "training.losses": {"core.base", "topology.nodes", "topology.graph", "training.vjp", "training.walk"},
    "training.step": {"core.base", "training.losses", "topology.nodes", "topology.graph", "training.vjp", "training.walk"},
    "training.update": {"training.step", "training.vjp", "training.walk"},
    "training.meshes": {"core.base", "topology.nodes", "training.step", "topology.graph", "training.walk"},
    "training.configure": {
        "core.base",
        "training.losses",
        "topology.nodes",
        "training.meshes",
        "training.step",
        "topology.graph",
        "training.update",
        "training.vjp",
        "training.walk",
    },
    "training.fused": {
        "core.base",
        "rounds.loops",
        "training.losses",
        "training.meshes",
        "training.step",
        "topology.graph",
        "training.configure",
        "training.update",
        "training.walk",
    },
    "jaxprs.halves": {"core.base", "jaxprs.flat"},
    "training.messages": {
        "core.base",
        "jaxprs.halves",
        "training.losses",
        "training.meshes",
        "training.step",
        "topology.graph",
        "training.configure",
        "training.update",
        "training.walk",
    },
    "training.export": {"core.base", "topology.graph"},
    "rounds.client_axis": {"core.base", "topology.nodes", "training.step", "topology.graph"},
    "rounds.state": {"core.base", "training.step", "training.configure"},
    "rounds.driver": {
        "core.base",
        "rounds.state",
        "rounds.loops",
        "population",
        "training.meshes",
        "training.step",
        "training.configure",
    },
    "rounds.local_training": {
        "rounds.driver",
        "rounds.averages",
        "core.base",
        "rounds.state",
        "rounds.loops",
        "training.meshes",
        "training.configure",
        "training.vjp",
    },
    "jaxprs.convolutions": {"core.base", "jaxprs.flat"},
    "rounds.client_calls": {
        "core.base",
        "jaxprs.convolutions",
        "rounds.loops",
        "training.losses",
        "topology.nodes",
        "rounds.client_axis",
        "training.step",
        "topology.graph",
        "training.configure",
        "training.update",
        "training.walk",
    },
    "rounds.synchronous": {
        "rounds.driver",
        "rounds.averages",
        "core.base",
        "rounds.state",
        "training.fused",
        "rounds.loops",
        "rounds.client_calls",
        "training.meshes",
        "rounds.client_axis",
        "rounds.local_training",
    },
    "rounds.algorithms": {"rounds.driver", "core.base", "rounds.state", "rounds.synchronous", "rounds.local_training"},
    "costing.step": {
        "core.base",
        "core.tables",
        "jaxprs.macs",
        "training.step",
        "topology.graph",
        "training.configure",
        "training.update",
        "training.walk",
    },
    "costing.run_cost": {"costing.step", "core.tables"},
    "costing.runs": {"core.base", "costing.step", "costing.run_cost"},
    "costing.plan": {
        "core.base",
        "costing.step",
        "slicing.cut_points",
        "topology.nodes",
        "core.tables",
        "slicing.split",
        "topology.graph",
        "training.configure",
    },
}
LAYERS |= {
    "wire.codec": set(),
    "wire.chunks": {"wire.codec"},
    "wire.session": {"wire.codec"},
    "wire.difference": set(),
    "wire.rendezvous": {"wire.session"},
    "wire.relay": {"wire.codec", "wire.session"},
    "wire.member": {"wire.codec", "wire.difference", "wire.relay", "wire.rendezvous", "wire.session"},
    "wire.channel": {"wire.chunks", "wire.codec"},
    "wire.certs": set(),
    "wire.seal": {"wire.certs", "wire.chunks", "wire.codec", "wire.rendezvous", "wire.session"},
    "wire.rpc": {"wire.certs", "wire.channel", "wire.codec"},
    "party.contract.schema": {"core.base", "compress"},
    "party.contract.draft": {"core.base", "party.contract.agreement", "party.contract.schema", "topology.graph", "training.configure"},
    "party.contract.turns": {"training.walk", "wire.session"},
    "party.compute.handover": {"core.base", "party.contract.schema", "wire.codec"},
    "party.contract.agreement": {"core.base", "segments.segment", "party.contract.schema", "party.contract.turns", "training.step", "topology.graph", "training.configure", "training.vjp", "training.walk"},
    "party.contract.records": {"core.base"},
    "party.durable": {"core.base", "core.checkpoint", "wire.session"},
    "party.compute.prefetch": {"core.base", "party.compute.programs", "party.contract.records", "training.configure", "training.walk"},
    "party.compute.exchange": {"core.base", "party.contract.turns", "training.step", "training.walk"},
    "party.compute.pipeline": {"core.base", "party.compute.prefetch", "party.compute.programs", "party.contract.records", "training.configure", "training.walk"},
    "party.compute.local": {
        "core.base", "training.messages", "party.contract.agreement", "party.compute.prefetch", "party.compute.exchange", "party.compute.programs", "party.compute.pipeline", "party.contract.records",
        "party.contract.schema", "training.step", "topology.graph", "training.configure", "training.update", "training.vjp", "training.walk",
    },
    "party.compute.programs": {"core.base", "training.messages", "training.update", "training.walk"},
    "party.connection.outbox": {"wire.channel", "wire.codec"},
    "party.connection.connections": {
        "party.contract.agreement", "party.connection.outbox", "wire.certs", "wire.channel", "wire.codec", "wire.member", "wire.rendezvous",
        "wire.rpc", "wire.session",
    },
    "party.connection.network": {"core.base", "party.contract.agreement", "party.connection.connections", "wire.certs", "wire.member", "wire.rendezvous"},
    "party.process": {
        "core.base", "party.contract.agreement", "party.durable", "party.compute.handover", "party.compute.local", "party.connection.network", "party.contract.records",
        "party.contract.turns", "topology.graph",
    },
    "party.join": {
        "core.base", "party.contract.agreement", "party.connection.connections", "party.durable", "party.compute.handover", "party.compute.local", "party.connection.network",
        "party.process", "party.contract.records", "party.contract.schema", "wire.certs", "wire.codec", "wire.member", "wire.relay",
        "wire.rendezvous",
        "wire.seal", "wire.session",
    },
    "party.run": {"core.base", "party.contract.agreement", "party.join", "party.connection.network", "party.process", "party.contract.records", "wire.certs"},
    "party.infer": {"core.base", "party.contract.agreement", "party.durable", "party.join", "party.connection.network", "party.process", "wire.certs"},
    "command": {"core.base", "party", "party.contract.agreement"},
}  # fmt: skip
OUTSIDE = {"jax", "optax", "numpy"}
KNOWS = {
    "segments.segment": {"flax"},
    "segments.interception": {"flax"},
    "topology.drawing.draw": {"matplotlib"},
    "core.tables": {"matplotlib"},
    "costing.step": {"matplotlib"},
    "costing.plan": {"matplotlib"},
    "wire.rpc": {"grpc"},
    "wire.certs": {"cryptography"},
    "wire.seal": {"cryptography"},
}


def imports(file: Path, *, top: bool = False) -> set[str]:
    """Modules that a file imports; with `top`, only those that importing it brings in."""
    tree = ast.parse(file.read_text())
    found = tree.body if top else ast.walk(tree)
    names = set()
    for node in found:
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{a.name}" for a in node.names} if node.module in PACKAGES else {str(node.module)}
    return names


PACKAGES = {"jsplit", *(".".join(["jsplit", *f.parent.relative_to(SOURCE).parts]) for f in SOURCE.rglob("__init__.py"))}
FILES = sorted(f for f in SOURCE.rglob("*.py") if f.name != "__init__.py")


def layer(file: Path) -> str:
    """The name of a module below jsplit."""
    return ".".join(file.relative_to(SOURCE).with_suffix("").parts)


@pytest.mark.parametrize("file", FILES, ids=layer)
def test_a_module_imports_only_the_layers_below_it(file):
    ours = {n.removeprefix("jsplit.") for n in imports(file) if n.startswith("jsplit.")}
    assert ours <= LAYERS[layer(file)], f"{layer(file)} imports {sorted(ours - LAYERS[layer(file)])}"


def test_the_layers_have_no_circle():
    waiting, done = {n: {b for b in below if b != "party"} for n, below in LAYERS.items()}, set()
    while waiting:
        ready = {n for n, below in waiting.items() if below <= done}
        assert ready, f"circle among {sorted(waiting)}"
        done |= ready
        waiting = {n: b for n, b in waiting.items() if n not in done}


@pytest.mark.parametrize("file", FILES, ids=layer)
def test_a_module_knows_only_the_packages_it_may(file):
    outside = {n.split(".")[0] for n in imports(file)} - {"jsplit"} - sys.stdlib_module_names
    assert outside <= OUTSIDE | KNOWS.get(layer(file), set())
    assert not any("_src" in n for n in imports(file)), "only public interfaces"


def test_importing_jsplit_imports_no_extra():
    code = "import jsplit, sys; print({'grpc', 'cryptography', 'matplotlib', 'sklearn', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"
