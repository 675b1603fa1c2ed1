"""The benchmarks of scale and for a lent device run in a small form, and the clock is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.bench import scale
from experiments.common import memory
from experiments.common.memory import Peak, held

ROOT = Path(__file__).parents[2]


def gpu(out, budget):
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "JAX_PLATFORMS": "cpu"}
    script = ROOT / "experiments/bench/gpu.py"
    command = [sys.executable, str(script), "--tiny", "--budget", str(budget)]
    command += ["--out", str(out), "--networks", "mlp", "transformer"]
    subprocess.run(command, check=True, env=env, cwd=ROOT, capture_output=True)
    return json.loads(out.read_text())


@pytest.mark.slow
def test_all_parts_of_the_run_for_a_lent_device_give_rows(tmp_path):
    found = gpu(tmp_path / "all.json", 900)
    assert found["done"]
    assert all(row["close"] for row in found["checks"])
    timed = {(row["network"], row["how"]) for row in found["steps"] if "ms" in row}
    assert len(timed) == 6
    assert {row["algorithm"] for row in found["rounds"]} == {
        "turns",
        "parallel, shared",
        "splitfed 1",
    }
    assert all(0 < row["accuracy"] <= 1 for row in found["figure3"])


@pytest.mark.slow
def test_a_run_for_a_lent_device_is_cut_off_at_its_budget_and_leaves_its_rows(tmp_path):
    found = gpu(tmp_path / "cut.json", 2)
    assert "done" not in found
    assert found["cut_off"] in ("starting", "checks", "steps")
    assert found["machine"]["backend"] == "cpu"


@pytest.mark.slow
def test_a_round_among_more_clients_is_measured_and_reads_the_same_from_files(tmp_path):
    arguments = ["--models", "dense", "--clients", "50", "80", "--rounds", "1"]
    arguments += ["--only", "splitfed 3", "--no-memory"]
    arguments += ["--out", str(tmp_path / "scale.json"), "--mapped", str(tmp_path)]
    rows = scale.main(arguments)["times"]
    assert [row["clients"] for row in rows] == [50, 80]
    assert all(row["ms_per_client_step"] > 0 for row in rows)
    written = np.load(tmp_path / f"image-{80 * scale.EACH}.npy", mmap_mode="r")
    base = scale.base(None)["image"]
    np.testing.assert_array_equal(written[-1], base[(len(written) - 1) % len(base)])


def test_a_peak_is_of_what_a_process_holds_and_not_of_files_it_reads(tmp_path):
    size = 64_000_000
    with open(tmp_path / "file", "wb") as file:
        file.truncate(size)
    before = held()
    with Peak() as reading:
        mapped = np.memmap(tmp_path / "file", np.uint8, "r")
        assert mapped[::4096].sum() == 0  # every page
    with Peak() as holding:
        assert np.ones(size, np.uint8).all()
    assert reading.bytes - before < size / 4
    assert size / 2 < holding.bytes - before < 2 * size


def test_where_files_cannot_be_told_apart_memory_is_not_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "STATUS", tmp_path / "none")
    with pytest.raises(RuntimeError, match="--no-memory"):
        Peak()
