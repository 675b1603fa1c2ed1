"""Docstrings and signatures as the site shows them: what readers can use, and look up.

The source says `Example:`, of which griffe makes a box of plain text, and writes references as
the documentation of optax does, `` `title <address>`_ ``. Constants, type variables and aliases
of types have names that stand on no page: what they are is said instead. This is an extension of
griffe, named in mkdocs.yml; the source stays as it is.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import griffe


def shown(said: str) -> str:
    """A docstring as its sections are to be read."""
    said = re.sub(r"^Example:$", "Examples:", said, flags=re.MULTILINE)
    return re.sub(
        r"`([^`<]+?)\s*<(https?://[^>]+)>`__?",
        lambda found: f"[{' '.join(found[1].split())}]({found[2]})",
        said,
    )


class Shown(griffe.Extension):
    """Rewrites every docstring before its sections are read, and then all signatures."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring is not None:
            obj.docstring.value = shown(obj.docstring.value)

    def on_package(self, *, pkg: griffe.Module, **_: object) -> None:
        for member in members(pkg):
            if isinstance(member, griffe.Attribute):
                # Of a field it becomes a default of the record's own `__init__`.
                member.value = spelled(member.value, pkg)
                continue
            for one in (member, *(member.overloads or ())):
                one.returns = spelled(one.returns, pkg)
                for given in one.parameters:
                    given.annotation = spelled(given.annotation, pkg)
                    given.default = spelled(given.default, pkg)


def members(within: griffe.Object) -> Iterator[griffe.Function | griffe.Attribute]:
    """All functions and methods of a module or class, and the fields of classes."""
    for member in within.members.values():
        if isinstance(member, griffe.Module | griffe.Class):
            yield from members(member)
        elif isinstance(member, griffe.Function) or (
            isinstance(member, griffe.Attribute) and isinstance(within, griffe.Class)
        ):
            yield member


def spelled(said: Any, pkg: griffe.Module) -> Any:
    """A type or a default in which names that are not public are what they stand for."""
    if isinstance(said, griffe.ExprName):
        found = target_of(said, pkg)
        if isinstance(found, griffe.Class) and found.name == said.name:
            # By the name of another module that imports it no link would be found.
            return griffe.ExprName(said.name, parent=found.parent)
        value = value_of(found) if isinstance(found, griffe.Attribute) else None
        # A method that is wrapped, `f = cached_property(f)`, would be itself within.
        if found is None or not isinstance(found.parent, griffe.Module):
            return said
        return said if value is None else spelled(value, pkg)
    if isinstance(said, griffe.Expr):
        for field in dataclasses.fields(said):
            part = getattr(said, field.name)
            if isinstance(part, list):
                setattr(said, field.name, [spelled(x, pkg) for x in part])
            elif isinstance(part, griffe.Expr) and field.name != "parent":
                setattr(said, field.name, spelled(part, pkg))
    return said


def target_of(name: griffe.ExprName, pkg: griffe.Module) -> griffe.Object | None:
    """What a name of the package is; `None` of one from elsewhere."""
    try:
        found = pkg[name.canonical_path.removeprefix(f"{pkg.path}.")]
        return found.final_target if found.is_alias else found
    except (KeyError, AttributeError, griffe.GriffeError):
        return None


def value_of(found: griffe.Attribute) -> Any:
    """What an alias, a constant or a type variable stands for; `None` where its name says more."""
    value = found.value
    if isinstance(value, str):
        # A number, say; an alias in quotes may stand for itself.
        return value if found.name.strip("_").isupper() else None
    # `PyTree` is anything, and says what that is.
    if value is None or str(value) == "Any":
        return None
    if not isinstance(value, griffe.ExprCall) or str(value.function) != "TypeVar":
        return value
    bounds = [x.value for x in value.arguments if isinstance(x, griffe.ExprKeyword)]
    either = [x for x in value.arguments[1:] if not isinstance(x, griffe.ExprKeyword)]
    if not either:
        # Without a bound it is any type, and its name says which is meant.
        typed = [x for x in bounds if isinstance(x, griffe.Expr)]
        return typed[0] if typed else griffe.ExprName(found.name.strip("_"))
    joined = either[0]
    for one in either[1:]:
        joined = griffe.ExprBinOp(joined, "|", one)
    return joined
