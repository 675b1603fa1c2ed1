"""Run the notebooks of this folder from top to bottom, and keep what they print and draw.

What they show is then what their cells gave, in their order. Paths of this machine and times of
runs are not kept. It needs `pip install nbclient ipykernel matplotlib`, which nothing else of
jsplit needs; the tests run the cells without them.

    python experiments/notebooks/run.py                       # all
    python experiments/notebooks/run.py experiments/notebooks/3_many_clients.ipynb
    python experiments/notebooks/run.py --draw                # docs/gallery.md's pictures
"""

from __future__ import annotations

import argparse
import base64
import json
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
GALLERY = HERE.parents[1] / "docs" / "pictures" / "gallery"
LIMIT = 60_000  # bytes of a picture: they are in the repository, and in every clone


def run(file: Path) -> None:
    """Run a notebook in an empty folder and write it with its outputs."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(file, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(
            notebook, timeout=600, resources={"metadata": {"path": folder}}
        ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran
        if cell.cell_type == "code":
            for output in cell.outputs:
                check(output, file.name)
    nbformat.write(notebook, file)


def check(output: Any, name: str) -> None:
    """Refuse an output that is a warning, too large, or says where it was made."""
    if output.get("name") == "stderr":
        raise SystemExit(f"{name} prints to the standard error: {output['text']}")
    data = output.get("data", {})
    # In base64 four letters are three bytes.
    if len(data.get("image/png", "")) * 3 / 4 > LIMIT:
        raise SystemExit(f"{name} has a picture of more than {LIMIT} bytes")
    # Of an object without a picture or a table of its own this is its address in memory.
    if "image/png" in data:
        data["text/plain"] = "a figure"
    said = output.get("text", "") + data.get("text/plain", "")
    if str(Path.home()) in said or tempfile.gettempdir() in said or " at 0x" in said:
        raise SystemExit(f"{name} names a place of this machine: {said}")


def draw(file: Path) -> None:
    """Write the pictures that a notebook shows into the folder of docs/gallery.md."""
    cells = json.loads(file.read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    shown = [
        o["data"]["image/png"] for o in outputs if "image/png" in o.get("data", {})
    ]
    GALLERY.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(shown, 1):
        place = GALLERY / f"{file.stem}_{number}.png"
        place.write_bytes(base64.b64decode(picture))
        print(place.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument(
        "--draw", action="store_true", help="run nothing, write pictures"
    )
    options = parser.parse_args()
    for file in options.notebooks or sorted(HERE.glob("*.ipynb")):
        if options.draw:
            draw(file)
        else:
            run(file)
            print(file.name)


if __name__ == "__main__":
    main()
