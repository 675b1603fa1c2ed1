"""Files of weights as GGUF, which its own package writes."""

from pathlib import Path

import pytest


def gguf_file(path: Path, entries, quantised=None) -> Path:
    """Write arrays by name; `quantised` says by name of which type the bytes are."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    for name, x in entries.items():
        writer.add_tensor(name, x, raw_dtype=(quantised or {}).get(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
