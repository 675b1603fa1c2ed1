"""The notebooks run from top to bottom, without Jupyter, and say nothing of a machine."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

FOLDER = Path(__file__).parents[2] / "experiments" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PICTURE = 60_000  # bytes
COUNTED = ("step", "epoch", "round")
"""What axes are called along which there is nothing between two whole numbers."""


def cells(notebook: Path) -> list[dict]:
    found = json.loads(notebook.read_text())["cells"]
    return [cell for cell in found if cell["cell_type"] == "code"]


def test_there_are_six_notebooks():
    assert [n.name[:2] for n in NOTEBOOKS] == [f"{i}_" for i in range(1, 7)]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda n: n.stem)
def test_outputs_are_there_in_order_light_and_of_no_machine(notebook):
    counts = [cell["execution_count"] for cell in cells(notebook)]
    assert counts == [*range(1, len(counts) + 1)]
    outputs = [output for cell in cells(notebook) for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    for output in outputs:
        assert output["output_type"] in ("stream", "display_data", "execute_result")
        # In base64 four letters are three bytes.
        picture = output.get("data", {}).pop("image/png", "")
        assert len(picture) * 3 / 4 <= PICTURE
        assert not re.search(r"/(home|tmp|work|usr)/| at 0x|Warning", str(output))


def test_the_gallery_has_all_pictures_of_the_notebooks_as_they_are():
    """`run.py --draw` writes them."""
    gallery = FOLDER.parents[1] / "docs" / "pictures" / "gallery"
    shown = {}
    for notebook in NOTEBOOKS:
        outputs = [
            o.get("data", {}) for cell in cells(notebook) for o in cell["outputs"]
        ]
        pictures = [data["image/png"] for data in outputs if "image/png" in data]
        for number, picture in enumerate(pictures, 1):
            shown[f"{notebook.stem}_{number}.png"] = b64decode(picture)
    assert shown == {p.name: p.read_bytes() for p in gallery.glob("[0-9]_*.png")}


def check(figure: Figure) -> None:
    """Counts are whole numbers, and of lines that lie on each other all are seen."""
    figure.draw_without_rendering()
    for axes in figure.axes:
        if axes.get_xlabel() in COUNTED:
            low, high = axes.get_xlim()
            assert all(x == round(x) for x in axes.get_xticks() if low <= x <= high)
        drawn = sorted(axes.lines, key=lambda line: line.get_zorder())
        for one, other in combinations(drawn, 2):
            points, others = (np.asarray(x.get_xydata()) for x in (one, other))
            if points.shape == others.shape and np.allclose(points, others, atol=1e-3):
                assert one.get_linewidth() > other.get_linewidth() + 1, (one, other)


@pytest.mark.parametrize("wrong", ("half", "hidden", ""))
def test_half_an_epoch_and_a_hidden_line_are_found(wrong):
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1, 2], lw=5)
    axes.plot([0, 1, 2], lw=5 if wrong == "hidden" else 1)
    axes.set(xlabel="epoch", xticks=[0, 0.5, 1] if wrong == "half" else [0, 1, 2])
    if wrong:
        with pytest.raises(AssertionError):
            check(figure)
    else:
        check(figure)


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda n: n.stem)
def test_a_notebook_runs_from_top_to_bottom(notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    from matplotlib import pyplot

    def show():
        for number in pyplot.get_fignums():
            check(pyplot.figure(number))
        pyplot.close("all")

    # Agg has no window to show, and warns; Jupyter shows the figure.
    monkeypatch.setattr(pyplot, "show", show)
    names: dict = {}
    for number, cell in enumerate(cells(notebook), 1):
        code = "".join(cell["source"])
        exec(compile(code, f"{notebook.name}, code cell {number}", "exec"), names)
