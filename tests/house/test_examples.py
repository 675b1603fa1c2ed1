"""Every example in a docstring runs, by itself, and gives what it says."""

from __future__ import annotations

import doctest
import importlib

import pytest

from tests.house.source import FILES, dotted, listed

MODULES = [
    dotted(file)
    for file in FILES
    if file.name != "__init__.py" and ">>>" in file.read_text()
]
# Their examples train, attack or compile for a second or more.
DEAR = (
    "jsplit.compress.sparsifying",
    "jsplit.compress.temporal",
    "jsplit.costing.baseline_runs",
    "jsplit.costing.split_runs",
    "jsplit.costing.step_cost",
    "jsplit.guarding.tally",
    "jsplit.privacy.attacks.inputs.decoder",
    "jsplit.privacy.attacks.inputs.feature_space",
    "jsplit.privacy.attacks.inputs.hijacking_segment",
    "jsplit.privacy.attacks.inputs.inverter",
    "jsplit.privacy.attacks.inputs.membership",
    "jsplit.privacy.attacks.inputs.nearest",
    "jsplit.privacy.attacks.inputs.property",
    "jsplit.privacy.attacks.inputs.simulation",
    "jsplit.privacy.attacks.inputs.unsplit",
    "jsplit.privacy.attacks.labels.clusters",
    "jsplit.privacy.attacks.labels.completion",
    "jsplit.privacy.attacks.labels.matching",
    "jsplit.privacy.defences.activation_noise",
    "jsplit.privacy.defences.class_noise",
    "jsplit.privacy.defences.norm_noise",
    "jsplit.privacy.defences.private_training",
    "jsplit.privacy.guarantees.grid",
    "jsplit.privacy.measures.batched",
    "jsplit.privacy.measures.correlation",
    "jsplit.privacy.measures.images",
    "jsplit.privacy.measures.reconstructed",
    "jsplit.privacy.reporting.by_cut",
    "jsplit.privacy.reporting.reporting",
)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples_of(name: str) -> list[doctest.DocTest]:
    module = importlib.import_module(name)
    found = doctest.DocTestFinder(exclude_empty=True).find(module, name)
    return [test for test in found if test.examples]


@pytest.mark.parametrize(
    "name",
    [pytest.param(m, marks=pytest.mark.slow) if m in DEAR else m for m in MODULES],
)
def test_the_examples_of_a_module_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an example may write files
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    tests = examples_of(name)
    assert tests
    for test in tests:
        # What a reader copies has no more than what it imports.
        test.globs = {"__name__": "__main__"}
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)


def test_the_modules_that_are_dear_exist():
    assert {*DEAR} <= {*MODULES}


def test_every_public_object_has_an_example_that_is_run():
    """Found where it is defined: a name that no module of jsplit defines would be run nowhere."""
    run = {test.name for name in MODULES for test in examples_of(name)}
    public = {
        f"{thing.__module__}.{thing.__qualname__}"
        for thing in listed().values()
        if hasattr(thing, "__qualname__") and thing.__module__.startswith("jsplit.")
    }
    assert not public - run
