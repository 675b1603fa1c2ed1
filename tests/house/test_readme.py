"""Every code block of the README runs, in order, and its commands exist."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def run_readme(blocks, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "readme"}
    assert len(blocks) >= 5
    for code in blocks:
        exec(compile(code, "README.md", "exec"), names)
        if (
            "jsplit.variables" in code
        ):  # the whole model computes what the trainer predicts
            y = names["y"] if "y" in names else names["net"](names["batch"]["record"])
            predicted = names["trainer"].predict(
                names["state"], {"record": names["batch"]["record"]}
            )["output"]
            assert abs(y - predicted).max() < 1e-5
    assert names["logits"].shape == (64, 2) and names["h"].shape == (64, 16)
    printed = capsys.readouterr().out
    assert "hospital" in printed and "cotangent" in printed and "flowchart" in printed


def test_the_python_blocks_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    """But for a report, which takes as long as all others: no block comes after what it makes."""
    blocks = [code for language, code in BLOCKS if language == "python"]
    daily = [code for code in blocks if "jsplit.privacy.report(" not in code]
    assert len(daily) == len(blocks) - 1
    run_readme(daily, tmp_path, monkeypatch, capsys)


@pytest.mark.slow
def test_all_python_blocks_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    blocks = [code for language, code in BLOCKS if language == "python"]
    run_readme(blocks, tmp_path, monkeypatch, capsys)


def test_the_commands_are_targets_of_the_makefile():
    targets = set(
        re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    )
    commands = [
        line.split("#")[0].split()
        for language, code in BLOCKS
        if language == "bash"
        for line in code.splitlines()
    ]
    assert commands == [["make", "demo"], ["make", "test"]]
    assert {c[1] for c in commands} <= targets


def test_the_example_is_short():
    example = next(code for language, code in BLOCKS if language == "python")
    assert len([line for line in example.splitlines() if line.strip()]) <= 15


PAGES = {
    page.name: [
        code
        for language, code in re.findall(
            r"```(\w+)\n(.*?)```", page.read_text(), re.DOTALL
        )
        if language == "python"
    ]
    for page in sorted((ROOT / "docs").glob("*.md"))
}
# They say what words mean, how to cite, what others have; what they name is in the reference.
WITHOUT_CODE = {"cite.md", "comparison.md", "glossary.md"}
# These train, attack or compile for long; their functions have examples that run daily.
DEAR = (
    "privacy.md",
    "rounds.md",
    "configurations.md",
    "cost.md",
    "exactness.md",
    "faq.md",
    "fit.md",
    "llm.md",
    "loop.md",
    "models.md",
    "records.md",
    "serving.md",
    "sweeps.md",
    "watching.md",
)
TEXTS = {page: (ROOT / "docs" / page).read_text() for page in PAGES}
# Who pastes a page must know what to paste before it, and pages that say nothing need nothing.
GO_ON = {page for page, text in TEXTS.items() if "(beginning.md)" in text}
DRAWN = {"cost.md": {"cost.png", "plan.png"}}  # files that a page writes


@cache
def beginning():
    """What most pages go on from; none changes it."""
    names: dict = {}
    for code in PAGES["beginning.md"]:
        exec(compile(code, "beginning.md", "exec"), names)
    return names


def run_page(page):
    """Runs the blocks of a page, one after the other, in the folder that one is in."""
    given = beginning() if page in GO_ON else {}
    names: dict = {"__name__": page, **given}
    for code in PAGES[page]:
        exec(compile(code, page, "exec"), names)
    assert names.keys() > {"__name__", *given}, page
    check_parts(names, page)


def check_parts(names, page):
    """What a page's parties bring, each by a function of its own name, fits its agreement."""
    for part in [*names.values()]:
        code = getattr(part, "__code__", None)
        if code is None or code.co_filename != page:
            continue
        if code.co_varnames[: code.co_argcount] == ("party",):
            role = part.__name__
            names["agreement"].topology(role, part(role)["own"])


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(p, marks=pytest.mark.slow) if p in DEAR else p
        for p, blocks in PAGES.items()
        if blocks
    ],
)
def test_the_python_blocks_of_the_docs_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_page(page)
    assert {f.name for f in tmp_path.iterdir()} >= DRAWN.get(page, set())


def test_the_pages_that_are_dear_exist():
    assert {*DEAR} | {*DRAWN} <= {*PAGES}
    assert {page for page, blocks in PAGES.items() if not blocks} == WITHOUT_CODE
