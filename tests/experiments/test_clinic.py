"""A clinic's X-rays: the whole training in few lines, and the same when it is begun again."""

from __future__ import annotations

import inspect
import json

import pytest

from experiments.clinic import xrays


def test_all_beside_the_model_takes_at_most_25_lines():
    lines = inspect.getsource(xrays.train).splitlines()
    assert len([line for line in lines if line.strip()]) <= 25


@pytest.mark.slow
def test_it_trains_draws_and_is_done_when_it_is_begun_again(tmp_path):
    small = ["--epochs", "1", "--records", "128", "--width", "2"]
    row = xrays.main([*small, "--out", str(tmp_path)])
    assert 0 <= row["auc"] <= 1 and (tmp_path / "history.png").stat().st_size > 1000
    assert json.loads((tmp_path / "xrays.json").read_text()) == row
    assert xrays.main([*small, "--out", str(tmp_path)]) == row
