"""A clinic's X-rays: the whole training in few lines, and the same when it is begun again."""

from __future__ import annotations

import inspect
import json

import pytest

from experiments.clinic import xrays, xrays_network


def lines_of(function):
    return len([x for x in inspect.getsource(function).splitlines() if x.strip()])


def test_all_beside_the_model_takes_at_most_25_lines():
    assert lines_of(xrays.train) <= 25


def test_over_a_network_each_party_takes_at_most_10_lines_more():
    known = lines_of(xrays_network.network)
    for party in (xrays_network.hospital, xrays_network.server):
        assert known + lines_of(party) <= 35
    # Made once, by one of them.
    assert lines_of(xrays_network.agree) <= 11


@pytest.mark.slow
def test_it_trains_draws_and_is_done_when_it_is_begun_again(tmp_path):
    small = ["--epochs", "1", "--records", "128", "--width", "2"]
    row = xrays.main([*small, "--out", str(tmp_path)])
    assert 0 <= row["auc"] <= 1 and (tmp_path / "history.png").stat().st_size > 1000
    assert json.loads((tmp_path / "xrays.json").read_text()) == row
    assert xrays.main([*small, "--out", str(tmp_path)]) == row


@pytest.mark.slow
def test_two_processes_train_to_the_bit_what_one_does(tmp_path):
    small = ["--epochs", "2", "--records", "150", "--width", "2"]
    row = xrays_network.main([*small, "--out", str(tmp_path)])
    assert row["equal"] and len(row["rows"]) == 2
    assert (tmp_path / "history.png").stat().st_size > 1000
