"""Every recipe of docs/howto runs from the beginning of its page alone, and the index has all."""

from __future__ import annotations

import re
import warnings
from functools import cache
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "howto"
PAGES = {
    page.stem: re.split(r"^## ", page.read_text(), flags=re.MULTILINE)
    for page in sorted(FOLDER.glob("*.md"))
    if page.stem != "index"
}
RECIPES = {
    recipe.splitlines()[0]: (page, recipe)
    for page, (_, *recipes) in PAGES.items()
    for recipe in recipes
}
# Each compiles one program or none; all others compile several, or attack, for seconds.
CHEAP = (
    "How do I start from weights that I have?",
    "How do I freeze a part?",
    "How do I measure something of the outputs?",
    "How do I go on after the process was killed?",
    "How do I log to TensorBoard, CSV or a tracker?",
    "How do I start from a published file of weights?",
    "How do I use several hosts of one owner?",
)


def python_of(text: str) -> str:
    return "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))


@cache
def beginning() -> dict:
    """What the code at the top of a page makes, which is the same on all pages."""
    (code,) = {python_of(parts[0]) for parts in PAGES.values()}
    names: dict = {}
    exec(compile(code, "the beginning of a page", "exec"), names)
    return names


@pytest.mark.parametrize(
    "recipe",
    [r if r in CHEAP else pytest.param(r, marks=pytest.mark.slow) for r in RECIPES],
)
def test_a_recipe_runs_from_the_beginning_alone(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page, text = RECIPES[recipe]
    code = python_of(text)
    assert code and "Expect:" in text
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(compile(code, f"{page}: {recipe}", "exec"), dict(beginning()))


def test_the_index_leads_to_every_recipe():
    listed = re.findall(
        r"^- \[(.*?)\]\((\w+)\.md#(.*?)\)", (FOLDER / "index.md").read_text(), re.M
    )
    # As GitHub and MkDocs make an anchor of a heading.
    anchors = [
        (r, page, re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", r.lower())))
        for r, (page, _) in RECIPES.items()
    ]
    assert sorted(listed) == sorted(anchors)
    assert {*CHEAP} <= {*RECIPES} and len(RECIPES) >= 20
