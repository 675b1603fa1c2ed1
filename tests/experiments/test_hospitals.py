"""The federation on one machine: four processes, one killed on the way, and the same bits in the end."""

import json

import pytest

from experiments.network import hospitals


@pytest.mark.slow
def test_four_processes_of_which_one_dies_end_as_one_process_that_was_not_disturbed(
    tmp_path, capsys
):
    row = hospitals.main(
        [
            "--steps",
            "60",
            "--checkpoint",
            "10",
            "--out",
            str(tmp_path),
            "--deadline",
            "150",
        ]
    )
    assert (
        row["steps"] == 60
        and set(row["difference"].values()) == {0.0}
        and row["epochs"] >= 2
    )
    assert 0.5 < row["accuracy"] <= 1
    [file] = tmp_path.glob("*/hospitals.json")
    assert json.loads(file.read_text()) == row
    assert capsys.readouterr().out.count("identical, bit for bit") == 4
