"""Who pastes the blocks of a page has every name: the page makes it, or links where it begins."""

from __future__ import annotations

import ast
import builtins
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCKS = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = {
    str(page.relative_to(ROOT)): page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}


def names(tree: ast.AST, kind: type[ast.expr_context]) -> set[str]:
    """Of all variables that are read, or bound."""
    return {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, kind)
    }


def lacking(text: str) -> set[str]:
    """Names that the blocks of a page read and nowhere make."""
    tree = ast.parse("\n".join(BLOCKS.findall(text)))
    made = names(tree, ast.Store) | {*dir(builtins)}
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                made.add(name)
            case ast.arg(arg=name) | ast.ExceptHandler(name=str(name)):
                made.add(name)
            case ast.Import(names=found) | ast.ImportFrom(names=found):
                made |= {(a.asname or a.name).partition(".")[0] for a in found}
    return names(tree, ast.Load) - made


def first_lines() -> set[str]:
    """Names that the page of the beginning makes."""
    text = PAGES["docs/beginning.md"].read_text()
    tree = ast.parse("\n".join(BLOCKS.findall(text)))
    return names(tree, ast.Store) | {"jax", "jsplit", "np", "optax", "nnx"}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_makes_what_its_blocks_read_or_links_the_beginning(page):
    text = PAGES[page].read_text()
    given = first_lines() if "(beginning.md)" in text else set()
    assert not lacking(text) - given


def test_what_a_page_lacks_is_found():
    begun = "```python\nimport jax as j\nx = j.f(y)\n```\n\n```python\nprint(x)\n```\n"
    assert lacking(begun) == {"y"}
