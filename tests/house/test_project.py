"""What is said twice about the project is said alike, and what is named is there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import jsplit

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def test_all_files_say_the_same_version():
    cited = re.search(
        r"^version: (\S+)", (ROOT / "CITATION.cff").read_text(), re.MULTILINE
    )
    changed = re.search(
        r"^## \[(\d\S*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert cited and changed
    assert jsplit.__version__ == cited[1] == changed[1]
    wheels = set(re.findall(r"jsplit-([\d.]+)-py3", (ROOT / "README.md").read_text()))
    assert wheels == {jsplit.__version__}


def test_dir_shows_what_all_lists_and_nothing_else():
    assert dir(jsplit) == sorted(jsplit.__all__)


def test_the_extra_dev_holds_what_the_dependency_groups_hold():
    # Both are there because pip before 25.1 knows no groups, and other tools look for nothing else.
    extras = PROJECT["project"]["optional-dependencies"]
    groups = PROJECT["dependency-groups"]
    included = [groups[entry["include-group"]] for entry in groups["dev"]]
    assert extras["dev"] == ["jsplit[experiments]", *(r for g in included for r in g)]


def test_pre_commit_runs_the_linters_of_ci_and_no_others():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert re.findall(r"^ +entry: (.*)$", hooks, re.MULTILINE) == ["make lint"]
    assert re.search(r"^make lint$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert "repo: local" in hooks and hooks.count("repo:") == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_a_page_names_files_that_exist(page: Path):
    text = page.read_text()
    named = re.findall(r"`((?:src|tests|docs|experiments)/[\w./]+)`", text)
    named += re.findall(r"python (experiments/[\w./]+\.py)", text)
    for name in named:
        assert (
            (ROOT / name).exists()
            or (ROOT / f"{name}.py").exists()
            or (
                # The one room that is announced and not built.
                name == "src/jsplit/privacy"
            )
        ), name
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_no_page_sends_to_a_package_index_that_has_no_jsplit(page: Path):
    assert not re.search(r"pip install ['\"]?jsplit(?!-)", page.read_text())
