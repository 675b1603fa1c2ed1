"""The site has every page and every public name, once; it loads nothing from elsewhere, and
errors are quoted as they come.
"""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import griffe
import pytest

from tests.house.source import ROOT, listed

DOCS = ROOT / "docs"


def script(name: str) -> ModuleType:
    """A file of experiments/site, of which MkDocs and griffe load some by their paths."""
    path = ROOT / "experiments" / "site" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"site_{name}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_is_in_the_reference_exactly_once():
    """By what it is: `jsplit.fit` is `jsplit.fitting.fit` too, and stands there once."""
    public = listed()
    shown = [
        name
        for page in (DOCS / "reference").glob("*.md")
        for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
    ]
    assert not set(shown) - public.keys()
    count = Counter(id(public[name]) for name in shown)
    lacking = [name for name, thing in public.items() if not count[id(thing)]]
    assert not lacking, f"add to docs/reference: {lacking}"
    assert max(count.values()) == 1


def test_every_page_is_in_the_navigation_once():
    nav = (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")[1]
    linked = re.findall(r"(?:- |: )([\w/-]+\.md)$", nav, re.MULTILINE)
    pages = {p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md")}
    project = {
        f"project/{n}.md" for n in ("readme", "changelog", "contributing", "security")
    }
    assert sorted(linked) == sorted(pages | project)


WIDEST = 120
"""Columns of code that a page of the site shows on a screen of 1400 pixels; see docs/site.css."""


def code_lines(page: Path) -> Iterator[tuple[int, str]]:
    """The lines of a page that are shown as code, by their number: in blocks, or indented."""
    within = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.startswith("```"):
            within = not within
        elif within or line.startswith("    "):
            yield number, line if within else line[4:]


def test_no_line_of_code_runs_out_of_its_page():
    pages = [*DOCS.rglob("*.md"), *(p for p in ROOT.glob("*.md"))]
    long = [
        f"{page.relative_to(ROOT)}:{number}"
        for page in pages
        for number, line in code_lines(page)
        if len(line) > WIDEST
    ]
    assert not long, f"longer than {WIDEST} columns: {long}"


def test_code_of_a_page_is_spaced_as_the_source_is():
    """No formatter reads pages: two empty lines before a class or function, as everywhere."""
    for page in [*DOCS.rglob("*.md"), ROOT / "README.md"]:
        for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
            # Comments and decorators belong to what is below them.
            for above in re.split(r"^(?:(?:#|@).*\n)*(?:class|def) ", code, flags=re.M)[
                :-1
            ]:
                assert above == "" or above.endswith("\n\n\n"), (page.name, above[-80:])


def test_a_link_of_a_page_says_in_words_where_it_leads():
    for page in DOCS.rglob("*.md"):
        files = re.findall(r"\[[\w/]+\.md\]\(|[( ]docs/\w+\.md\)", page.read_text())
        assert not files, (page.name, files)


def test_every_picture_that_a_page_shows_is_there_and_every_picture_is_shown():
    shown = {
        (page.parent / target).resolve()
        for page in DOCS.rglob("*.md")
        for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text())
    }
    there = {p.resolve() for p in (DOCS / "pictures").rglob("*") if p.is_file()}
    assert shown == there


WRONG = {
    '<a href="gone.html">': "index.html links to gone.html, which is not there",
    '<a href="#gone">': "index.html links to #gone, whose anchor is not there",
    '<a href="b.html#gone">': "index.html links to b.html#gone, whose anchor is not there",
    '<script src="https://cdn.example.org/x.js">': (
        "index.html loads https://cdn.example.org/x.js from elsewhere"
    ),
    '<div class="doc-signature highlight"><span class="n">_GUARD</span></div>': (
        "index.html has the private name _GUARD in a signature"
    ),
    '<link rel="stylesheet" href="//fonts.example.org/x.css">': (
        "index.html loads //fonts.example.org/x.css from elsewhere"
    ),
}


@pytest.mark.parametrize("tag", WRONG)
def test_a_link_that_leads_nowhere_and_a_script_from_elsewhere_are_found(tag, tmp_path):
    good = (
        '<p id="here"><a href="b.html#there"><a href="#here"><a href="https://x.org">'
    )
    (tmp_path / "b.html").write_text('<p id="there"><a href="index.html">')
    (tmp_path / "index.html").write_text(good)
    links = script("links")
    assert not [*links.faults(tmp_path)]
    (tmp_path / "index.html").write_text(good + tag)
    assert [*links.faults(tmp_path)] == [WRONG[tag]]


def test_a_signature_says_what_its_constants_and_names_of_types_are(tmp_path):
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "__init__.py").write_text(
        'T = 1\n_LONG = 3.5\n_Own = TypeVar("_Own", int, str)\n'
        '_Run = TypeVar("_Run", bound=list[_Own])\n_Any = TypeVar("_Any")\n'
        "Anything = Any\nOwn = dict[str, _Own | Anything]\n"
        "class A:\n    x: float = _LONG\n"
        "def f(x: Own, y: _Run, z: _Any, s: float = _LONG): ...\n"
    )
    site = script("docstrings")
    read = griffe.load(
        "some", search_paths=[tmp_path], extensions=griffe.load_extensions(site.Shown())
    )
    said = [(str(p.annotation), p.default) for p in read["f"].parameters]
    types = ["dict[str, int | str | Anything]", "list[int | str]", "Any", "float"]
    assert [of for of, _ in said] == types and said[-1][1] == "3.5"
    assert read["A.x"].value == "3.5"


def test_an_example_is_code_and_a_reference_a_link():
    shown = script("docstrings").shown
    said = (
        "References:\n    A, `a\n    title <https://x.org>`_.\n\nExample:\n    >>> 1\n"
    )
    seen = "References:\n    A, [a title](https://x.org).\n\nExamples:\n    >>> 1\n"
    assert shown(said) == seen


@pytest.mark.slow
def test_the_pictures_are_drawn_by_their_script(tmp_path, monkeypatch):
    pictures = script("pictures")
    monkeypatch.setattr("sys.argv", ["pictures.py", "--out", str(tmp_path)])
    pictures.main()
    # Those of the gallery are of notebooks and experiments, in a folder of their own.
    here = [p for p in (DOCS / "pictures").iterdir() if p.is_file()]
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in here}
    size = sum(p.stat().st_size for p in here)
    assert size < 1_000_000  # they lie in the repository


def quoted(page: Path) -> list[str]:
    """What a page quotes of errors, each on one line."""
    blocks = re.findall(r"```text\n(.*?)```", page.read_text(), re.DOTALL)
    return [" ".join(block.split()) for block in blocks]


@pytest.mark.slow
def test_errors_are_quoted_as_they_come(capsys, tmp_path, monkeypatch):
    from tests.house.test_readme import run_page

    monkeypatch.chdir(tmp_path)
    run_page("faq.md")
    printed = " ".join(capsys.readouterr().out.split())
    assert len(quoted(DOCS / "faq.md")) >= 6
    for text in quoted(DOCS / "faq.md"):
        assert text in printed
