"""Every public docstring renders: Google style, read by griffe without a warning, each
argument by itself.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from functools import cache

import griffe

from tests.house.source import SOURCE, listed

Kind = griffe.DocstringSectionKind


@cache
def package() -> griffe.Object:
    loaded = griffe.load("jsplit", search_paths=[str(SOURCE.parent)])
    assert isinstance(loaded, griffe.Object)
    return loaded


def own(thing: griffe.Object) -> Iterator[griffe.Object]:
    """An object, and of a class its public methods and properties."""
    yield thing
    if thing.is_class:
        for name, member in thing.members.items():
            if name.startswith("_") or member.is_alias:
                continue
            # A property is an attribute to griffe; a field stands in its class's docstring.
            if member.is_function or "property" in member.labels:
                assert isinstance(member, griffe.Object)
                yield member


@cache
def documented() -> dict[str, griffe.Object]:
    """Every public function, class, method and property, by its path in the source."""
    found = {}
    for name, thing in listed().items():
        if not (inspect.isclass(thing) or inspect.isroutine(thing)):
            continue
        path = name.removeprefix("jsplit.")
        at = package()[path]
        at = at.final_target if isinstance(at, griffe.Alias) else at
        assert isinstance(at, griffe.Object)
        found |= {x.canonical_path: x for x in own(at)}
    return found


# A law goes through all of it in one test: griffe takes seconds to read the package, which
# every worker would spend to name the points of a test while it collects.
@cache
def sections_of(thing: griffe.Object) -> list[griffe.DocstringSection]:
    assert thing.docstring is not None, f"{thing.canonical_path} has no docstring"
    return thing.docstring.parse("google")


def named(thing: griffe.Object, *kinds: Kind) -> list[str]:
    """The names that sections of these kinds document."""
    found = []
    for section in sections_of(thing):
        if section.kind in kinds:
            found += [entry.name.lstrip("*") for entry in section.value]
    return found


def arguments(function: griffe.Function) -> list[str]:
    names = [p.name.lstrip("*") for p in function.parameters]
    return [n for n in names if n not in ("self", "cls") and not n.startswith("_")]


def fields(record: griffe.Class) -> list[str]:
    """The public fields of a record, in their order."""
    return [
        name
        for name, member in record.members.items()
        if member.is_attribute
        and not name.startswith("_")
        and "property" not in member.labels
        and "instance-attribute" in member.labels
    ]


def test_griffe_reads_each_without_a_warning(caplog):
    sections_of.cache_clear()  # else what another law has read is not read again
    with caplog.at_level(logging.WARNING, logger="griffe"):
        for thing in documented().values():
            sections_of(thing)
    assert documented() and not caplog.messages


def test_every_argument_has_an_entry_of_its_own():
    for path, thing in documented().items():
        if isinstance(thing, griffe.Function):
            assert named(thing, Kind.parameters) == arguments(thing), path
        if isinstance(thing, griffe.Class) and "__init__" in thing.members:
            init = thing.members["__init__"]
            assert isinstance(init, griffe.Function)
            # A dataclass may call its fields arguments, or attributes.
            said = named(thing, Kind.parameters, Kind.attributes)
            assert {*arguments(init)} <= {*said}, path
        elif isinstance(thing, griffe.Class):
            assert {*fields(thing)} <= {*named(thing, Kind.attributes)}, path


def test_what_is_returned_is_said():
    silent = []
    for path, thing in documented().items():
        if not isinstance(thing, griffe.Function):
            continue
        kinds = {section.kind for section in sections_of(thing)}
        nothing = thing.returns is not None and str(thing.returns) in ("None", "Never")
        if not nothing and not kinds & {Kind.returns, Kind.yields}:
            silent.append(path)
    assert not silent


def has_example(thing: griffe.Object) -> bool:
    text = ""
    for section in sections_of(thing):
        # "Examples:" is a section of its own to griffe, "Example:" an admonition.
        title = str(section.title or "")
        if section.kind is Kind.examples:
            text += "".join(str(entry[1]) for entry in section.value)
        elif section.kind is Kind.admonition and title.lower().startswith("example"):
            text += str(section.value.contents)
    return ">>>" in text


def test_each_has_an_example():
    assert not [path for path, x in documented().items() if not has_example(x)]
