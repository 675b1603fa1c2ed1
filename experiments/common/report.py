"""Progress and tables on a terminal.

With rich where it is installed, as plain lines where it is not or nobody watches.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

try:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.table import Table
except ImportError:
    Console = None

WIDTH = 128  # of a table where no terminal says how wide it is
Advance = Callable[[int, str], None]


@contextmanager
def progress() -> Iterator[Callable[[str, int], Advance]]:
    """Show how far several jobs are, for as long as the context is open.

    Yields:
        `start(name, total) -> advance`; `advance(steps, note)` is to be called until `total` is
        reached.
    """
    console = Console() if Console else None
    if console and console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=console) as bars:

            def start(name: str, total: int) -> Advance:
                task = bars.add_task(name, total=total, note="")
                return lambda steps, note: bars.update(task, advance=steps, note=note)

            yield start
    else:
        yield lines


def lines(name: str, total: int) -> Advance:
    """The plain twin of a bar: one line when all is done."""
    done = 0

    def advance(steps: int, note: str) -> None:
        nonlocal done
        done += steps
        if done >= total:
            print(f"{name}  {done} steps  {note}", flush=True)

    return advance


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; a column whose cells are all numbers is set to the right."""
    right = [all(is_number(row[i]) for row in rows) for i in range(len(columns))]
    if Console:
        console = Console()
        # In a file or a log rich takes 80 columns, and would break every row.
        if not console.is_terminal:
            console = Console(width=WIDTH)
        grid = Table(title=title, title_justify="left", title_style="bold")
        for name, number in zip(columns, right, strict=True):
            grid.add_column(
                name, justify="right" if number else "left", overflow="fold"
            )
        for row in rows:
            grid.add_row(*row)
        console.print(grid)
        return
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    print(f"\n{title}")
    for row in (columns, *rows):
        cells = [
            c.rjust(w) if r else c.ljust(w)
            for c, w, r in zip(row, widths, right, strict=True)
        ]
        print("  ".join(cells).rstrip())


def is_number(cell: str) -> bool:
    # Thousands are set apart by spaces, and a column may be empty in places.
    try:
        float(cell.replace(" ", "") or "0")
    except ValueError:
        return False
    return True


def write_rows(file: Path, rows: object) -> None:
    """Write what was measured as JSON, in a folder that need not be there yet.

    Args:
        file: is replaced.
        rows: of numbers, texts, lists and dictionaries.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(rows, indent=1))
