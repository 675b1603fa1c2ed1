"""The notebooks run from top to bottom, without Jupyter, and say nothing of a machine."""

from __future__ import annotations

import json
import re
from pathlib import Path

import matplotlib
import pytest

FOLDER = Path(__file__).parents[2] / "experiments" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PICTURE = 60_000  # bytes


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


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda n: n.stem)
def test_a_notebook_runs_from_top_to_bottom(notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    from matplotlib import pyplot

    # Agg has no window to show, and warns; Jupyter shows the figure.
    monkeypatch.setattr(pyplot, "show", lambda: pyplot.close("all"))
    names: dict = {}
    for number, cell in enumerate(cells(notebook), 1):
        code = "".join(cell["source"])
        exec(compile(code, f"{notebook.name}, code cell {number}", "exec"), names)
