"""The report of the experiment, small: all its forms are written, and it says what it found."""

from __future__ import annotations

from experiments.privacy import report
from jsplit.privacy import Report


def test_a_report_is_written_in_all_forms_and_read_back(tmp_path, capsys):
    small = ["--limit", "200", "--epochs", "3", "--steps", "2", "--out", str(tmp_path)]
    found = report.main(small)
    assert {f.suffix for f in tmp_path.iterdir()} == {".txt", ".md", ".html", ".json"}
    assert Report.from_json((tmp_path / "privacy_report.json").read_text()) == found
    assert [o.name for o in found.outcomes] == ["none", "2 bits", "noise 1"]
    assert "What was not tested, and why" in capsys.readouterr().out
    # Cotangents of the plain training give labels away; noise does not cost nothing.
    (plain,) = found["none"].best
    assert plain.score.beats_chance and plain.score.control < plain.score.value
    assert found["2 bits"].bytes < found["none"].bytes == found["noise 1"].bytes
    assert not any("broke" in u.why for o in found.outcomes for u in o.untested)
