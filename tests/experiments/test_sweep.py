"""A sweep over seeds and rates in one program, and over cuts in processes that are spawned."""

from __future__ import annotations

import json

from experiments.sweep import rates


def test_seeds_rates_and_cuts_are_swept_in_processes_of_their_own(tmp_path, capsys):
    small = ["--seeds", "2", "--steps", "3", "--processes", "1", "--out", str(tmp_path)]
    rows = rates.main(small)
    assert json.loads((tmp_path / "sweep.json").read_text()) == rows
    assert len(rows) == len(rates.CUTS) * 2 * len(rates.RATES)
    # A cut changes no number: it is one network wherever it is cut.
    first, second = (
        [row["loss"] for row in rows if row["cut"] == cut] for cut in rates.CUTS
    )
    assert max(abs(a - b) for a, b in zip(first, second, strict=True)) < 1e-5
    # Each seed and each rate is a run of its own.
    assert len({round(loss, 6) for loss in first}) == len(first)
    assert "0.003" in capsys.readouterr().out
