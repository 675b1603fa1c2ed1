"""Tests compile a great deal and compute little, so the compiler is told to do as little as it can.

`XLA_FLAGS= python -m pytest` runs them as users run jsplit, at several times the cost.
"""

import gc
import hashlib
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import jax
import pytest

from tests.kept import left_out, lost
from tests.long import DEAR, LONG
from tests.smoke import belongs

FLAGS = [
    # Nothing that these programs compute is worth optimising for.
    "--xla_backend_optimization_level=0",
    # A program is cut into 32 modules for as many threads to compile. They are small, and
    # there are as many test workers as cores: one module saves the cutting and the linking.
    "--xla_cpu_parallel_codegen_split_count=1",
]
# XLA ends the process at a flag that it does not know. That of jaxlib 0.10 knows this one,
# that of 0.12 no longer; 0.11 was not tried.
if version("jaxlib").startswith("0.10."):
    # Emitting a fused loop by way of MLIR costs three times what emitting it as plain LLVM
    # does; it is the loop that is emitted, not the program around it, so laws are the same.
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")

os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))
# Where in Python an operation came from is written into every program; nobody reads these.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")

WEEK = 7 * 24 * 3600.0  # seconds


def pytest_configure(config: pytest.Config) -> None:
    """Programs that an earlier run or the other worker has compiled are read from files.

    JAX finds a program by its operations, the flags and the versions of jaxlib. `-p
    no:cacheprovider` leaves no files and compiles everything.
    """
    if not config.pluginmanager.hasplugin("cacheprovider"):
        return
    folder = Path(config.rootpath, ".pytest_cache", "d", "compiled", _processor())
    if not hasattr(config, "workerinput") and folder.is_dir():
        old = time.time() - WEEK
        for file in folder.iterdir():
            if file.stat().st_mtime < old:
                file.unlink(missing_ok=True)
    # Not by the environment: processes that tests start and kill would write here as well.
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # JAX writes a file while another worker or thread may read it. Who reads half of one
    # is told so and compiles; this is no fault of a test.
    config.addinivalue_line(
        "filterwarnings", "ignore:Error (reading|writing) persistent compilation cache"
    )


def _processor() -> str:
    """A name of this kind of processor: compiled programs run on no lesser one."""
    try:
        told = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        told = []
    flags = next((line for line in told if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(f"{platform.machine()} {flags}".encode()).hexdigest()[:16]


@pytest.hookimpl(tryfirst=True)  # before -m looks at the marks
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    names = [item.nodeid.removeprefix("tests/") for item in items]
    whole = not config.args or config.args == config.getini("testpaths")
    if not any("::" in given for given in config.args) and (gone := lost(names)):
        raise pytest.UsageError(f"tests/kept.py names points that are gone: {gone}")
    there = {*names}
    if whole and (gone := [name for name in DEAR if name not in there]):
        raise pytest.UsageError(f"tests/dear.txt names tests that are gone: {gone}")
    for item in items:
        if belongs(item.nodeid.removeprefix("tests/")):
            item.add_marker("smoke")
        name = item.nodeid.removeprefix("tests/")
        if name in LONG or name.partition("[")[0] in LONG or left_out(name):
            item.add_marker("slow")


def pytest_collection_finish() -> None:
    """Tracing makes so many objects that all of Flax and JAX is looked through again and again.

    So what is there before the first test is never looked through, and the rest less often.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
