"""The limits of the house: how long, how wide, how deep, and how much is said about why."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

from tests.house.source import (
    FILES,
    ROOT,
    SOURCE,
    Function,
    functions,
    short,
    tree_of,
)

MODULE, FUNCTION, LONGEST, DOOR = 300, 60, 100, 40  # lines
LONG_FUNCTIONS = 4  # so many may be longer than FUNCTION, none longer than LONGEST
COMMENTS = 30  # at least, for 1000 lines that are not blank
WIDTH, WIDEST = 46, 100  # characters: the mean line at most, and any line at most
CLOSURES = 2  # how deep functions of `rounds` may stand in one another

# `Any` stands where a tree or an object is the user's own. This number only ever falls.
ANY = 8

# Tables of data that are set by hand, file by file, with the number of their marks.
TABLES = {
    "topology/drawing/symbols.py": 2,  # shapes, colours and a path, by row
}

# Comments for a tool say nothing to a reader.
MARKS = ("noqa", "type:", "fmt:", "pyright:", "ruff:")


def lines_of(file: Path) -> list[str]:
    """The lines of a file that are not blank."""
    return [line for line in file.read_text().splitlines() if line.strip()]


def comments_of(file: Path) -> list[str]:
    tokens = tokenize.generate_tokens(io.StringIO(file.read_text()).readline)
    return [t.string for t in tokens if t.type == tokenize.COMMENT]


def code_lines(function: Function) -> int:
    """From `def` to the last line, without the docstring."""
    assert function.end_lineno is not None
    count = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        text = function.body[0]
        assert text.end_lineno is not None
        count -= text.end_lineno - text.lineno + 1
    return count


def closure_depth(node: ast.AST) -> int:
    """How many functions stand inside one another below `node`."""
    depths = [0]
    for child in ast.iter_child_nodes(node):
        depths.append(closure_depth(child) + isinstance(child, Function))
    return max(depths)


def test_a_module_has_at_most_300_lines():
    lengths = {short(file): len(file.read_text().splitlines()) for file in FILES}
    assert not {name: count for name, count in lengths.items() if count > MODULE}


def test_no_line_is_wider_than_100_characters():
    lines = [(short(file), line) for file in FILES for line in lines_of(file)]
    assert not [(name, line) for name, line in lines if len(line) > WIDEST]


def test_the_mean_line_is_at_most_46_characters_wide():
    widths = [len(line) for file in FILES for line in lines_of(file)]
    assert sum(widths) / len(widths) <= WIDTH


def test_functions_are_short():
    lengths = {
        f"{short(file)}:{function.name}": code_lines(function)
        for file in FILES
        for function in functions(tree_of(file))
    }
    long = {name: count for name, count in lengths.items() if count > FUNCTION}
    assert len(long) <= LONG_FUNCTIONS, long
    assert max(lengths.values()) <= LONGEST, long


def test_closures_of_a_round_are_at_most_two_deep():
    depths = {
        f"{short(file)}:{function.name}": closure_depth(function)
        for file in FILES
        if short(file).startswith("rounds/")
        for function in functions(tree_of(file))
    }
    assert depths
    assert not {name: depth for name, depth in depths.items() if depth > CLOSURES}


def test_comments_say_why():
    """Thirty for a thousand lines; what a linter or a type checker reads does not count."""
    said, lines = 0, 0
    for file in FILES:
        said += sum(
            not any(mark in comment for mark in MARKS) for comment in comments_of(file)
        )
        lines += len(lines_of(file))
    assert 1000 * said / lines >= COMMENTS


def test_only_tables_of_data_are_set_by_hand():
    found = {}
    for file in FILES:
        marks = sum("fmt:" in comment for comment in comments_of(file))
        if marks:
            found[short(file)] = marks
    assert found == TABLES


def test_a_door_has_under_40_lines():
    """That of the package itself lists all that is public, a name a line, and imports it."""
    doors = [file for file in FILES if file.name == "__init__.py"]
    for door in doors:
        allowed = MODULE if door.parent == SOURCE else DOOR
        assert len(door.read_text().splitlines()) < allowed, short(door)
    assert len(doors) > 10


TAKEN_APART = ("partition", "rpartition", "split", "startswith", "removeprefix")


def test_no_label_is_parsed():
    """What an operation or a turn is, its type says; a label is for people."""
    parsed, calls = [], 0
    for file in FILES:
        if short(file).split("/")[0] not in ("training", "costing", "party"):
            continue
        for node in ast.walk(tree_of(file)):
            match node:
                case ast.Call(func=ast.Attribute(attr=name, value=subject), args=args):
                    calls += 1
                case _:
                    continue
            # Source is written from a tree only where a name asks for it: that is slow.
            if (name in TAKEN_APART and "label" in ast.unparse(subject)) or (
                name == "partition" and ast.unparse(args[0]) == "' '"
            ):
                parsed.append((short(file), ast.unparse(node)))
    assert calls and not parsed


def test_any_is_rare():
    found = 0
    for file in FILES:
        found += sum(
            isinstance(node, ast.Name) and node.id == "Any"
            for node in ast.walk(tree_of(file))
        )
    assert found <= ANY


def names_of(folder: str) -> dict[str, Path]:
    """Every module of a folder by the name under which others import it."""
    root = ROOT / folder
    base = root if folder == "src" else ROOT
    found = {}
    for file in root.rglob("*.py"):
        name = ".".join(file.relative_to(base).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = file
    return found


def imported(file: Path, modules: dict[str, Path]) -> set[str]:
    """The modules among `modules` that a file imports, wherever in it the import stands.

    A door imports the files behind it, and they never the door: `from jsplit.core import
    base` is an arrow to the file, not to the door.
    """
    found = set()
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in modules else node.module)
    return found & modules.keys()


def test_no_import_goes_in_a_circle():
    """In the source, the experiments and the tests: what is left when leaves are taken off."""
    modules = names_of("src") | names_of("experiments") | names_of("tests")
    arrows = {name: imported(file, modules) for name, file in modules.items()}
    while leaves := {name for name, others in arrows.items() if not others}:
        arrows = {
            name: others - leaves
            for name, others in arrows.items()
            if name not in leaves
        }
    assert not arrows
