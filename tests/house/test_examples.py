"""Every example in a docstring runs, by itself, and gives what it says."""

from __future__ import annotations

import doctest
import importlib

import pytest

from tests.house.source import FILES, dotted, listed

MODULES = [dotted(file) for file in FILES if file.name != "__init__.py"]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples_of(name: str) -> list[doctest.DocTest]:
    module = importlib.import_module(name)
    found = doctest.DocTestFinder(exclude_empty=True).find(module, name)
    return [test for test in found if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an example may write files
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    for test in examples_of(name):
        # What a reader copies has no more than what it imports.
        test.globs = {"__name__": "__main__"}
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)


def test_every_public_object_has_an_example_that_is_run():
    """Found where it is defined: a name that no module of jsplit defines would be run nowhere."""
    run = {test.name for name in MODULES for test in examples_of(name)}
    public = {
        f"{thing.__module__}.{thing.__qualname__}"
        for thing in listed().values()
        if hasattr(thing, "__qualname__") and thing.__module__.startswith("jsplit.")
    }
    assert not public - run
