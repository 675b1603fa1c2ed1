"""Attacks, defences and depth of the cut, small: all is measured, beside what is reported."""

from __future__ import annotations

import json

import pytest

from experiments.paper import privacy, privacy_labels


def test_the_interval_of_seeds_is_that_of_student():
    """Of 1, 2, 3: the mean 2, the deviation 1, and 4.303 / sqrt 3 to each side."""
    found = privacy.over_seeds([1.0, 2.0, 3.0])
    assert found["mean"] == 2
    assert found["interval"] == pytest.approx([2 - 2.4841, 2 + 2.4841], abs=1e-4)
    assert privacy.over_seeds([1.0])["interval"] is None


def test_all_records_are_read_before_one_is_read_again():
    first, second, *_ = privacy_labels.drawn(10, 5, 4, seed=0)
    assert sorted([*first, *second]) == list(range(10))


def test_of_a_table_no_pictures_are_rebuilt(capsys):
    assert privacy.parse(["--data", "breast_cancer"]).parts == ["labels"]
    with pytest.raises(SystemExit):
        privacy.parse(["--data", "breast_cancer", "--only", "inputs"])
    assert "inputs are of pictures" in capsys.readouterr().err


@pytest.mark.slow
def test_what_defences_leave_is_written_beside_what_others_report(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(privacy_labels, "STRENGTHS", {"marvell": (1.0, 4.0)})
    small = ["--limit", "400", "--seeds", "2", "--steps", "6", "--unsplit", "2"]
    small += ["--decoder", "20", "--cuts", "dense 64", "--out", str(tmp_path)]
    found = privacy.main(small)
    assert {f.suffix for f in tmp_path.iterdir()} == {".json", ".md", ".png"}
    kept = json.loads((tmp_path / "privacy_digits.json").read_text())
    assert kept["summary"] == json.loads(json.dumps(found))
    assert len(kept["rows"]) == 2 * len(found)
    by = {(r["part"], r["defence"]): r for r in found}
    plain, marvell = by["labels", "none"], by["labels", "marvell 4"]
    # What needs no label finds all of them, and noise hides them from one step's directions.
    assert plain["numbers"]["cosine"]["mean"] > 0.99
    assert plain["controls"]["cosine"]["mean"] < 0.7
    assert marvell["numbers"]["cosine"]["mean"] < 0.8
    assert marvell["reported"]["norm max"] == 0.558
    text = (tmp_path / "privacy_digits.md").read_text()
    assert "reported by others" in text and "nothing to find, and times" in text
    assert kept["pictures"].keys() >= {"original", "none", "nopeek 5"}
