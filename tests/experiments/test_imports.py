"""No experiment uses an internal of jsplit: what it needs, its users need too."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
DOORS = {
    "jsplit",
    "jsplit.compress",
    "jsplit.fitting",
    "jsplit.guarding",
    "jsplit.party",
    "jsplit.population",
    "jsplit.privacy",
    "jsplit.rounds",
    "jsplit.runs",
    "jsplit.wire",
    # A door of its own: importing it imports gRPC, which `jsplit.wire` does not need.
    "jsplit.wire.rpc",
}
FILES = sorted(EXPERIMENTS.rglob("*.py"))


def modules_of(file: Path) -> set[str]:
    """The modules that a file imports or imports from, without those that they hand on."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_an_experiment_knows_only_the_public_doors(file: Path):
    ours = {m for m in modules_of(file) if m.split(".")[0] == "jsplit"}
    assert ours <= DOORS


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_an_experiment_says_its_question_and_its_command(file: Path):
    says = ast.get_docstring(ast.parse(file.read_text())) or ""
    assert len(says.splitlines()[0]) <= 100
    if "__main__" in file.read_text() and file.parent.name != "network":
        assert f"python experiments/{file.relative_to(EXPERIMENTS)}" in says


def test_no_import_circle():
    """Files of experiments, each with those it imports, have an order."""
    known = {
        ".".join(f.relative_to(EXPERIMENTS.parent).with_suffix("").parts): f
        for f in FILES
    }
    waiting = {name: modules_of(file) & known.keys() for name, file in known.items()}
    # `from experiments.paper import plot_demo` imports a module that the statement names last.
    for name, file in known.items():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                waiting[name] |= inner & known.keys()
    while waiting:
        free = [name for name, needs in waiting.items() if not needs & waiting.keys()]
        assert free, f"a circle among {sorted(waiting)}"
        for name in free:
            del waiting[name]
