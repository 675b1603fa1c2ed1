"""What the laws of the house read: every source file, its tree, and the public API."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsplit

ROOT = Path(__file__).parents[2]
SOURCE = Path(jsplit.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))

# What these list is public; everything else is behind their doors.
DOORS = (
    "jsplit",
    "jsplit.compress",
    "jsplit.fitting",
    "jsplit.party",
    "jsplit.population",
    "jsplit.privacy",
    "jsplit.rounds",
    "jsplit.runs",
    "jsplit.wire",
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


# Several laws read every file. It is parsed by the first, and not while tests are collected:
# every worker collects all tests, and one of them runs those of the house.
@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def short(file: Path) -> str:
    """A source file by its path within the package, as tests name it."""
    return file.relative_to(SOURCE).as_posix()


def dotted(file: Path) -> str:
    """The name by which a source file is imported."""
    parts = ("jsplit", *file.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


def functions(tree: ast.AST) -> Iterator[Function]:
    for node in ast.walk(tree):
        if isinstance(node, Function):
            yield node


def listed() -> dict[str, Any]:
    """Every public object that is no module, by `door.name`."""
    found = {}
    for door in DOORS:
        module = importlib.import_module(door)
        for name in module.__all__:
            thing = getattr(module, name)
            if not inspect.ismodule(thing):
                found[f"{door}.{name}"] = thing
    return found
