"""Files of weights that others have written: safetensors and GGUF, read entry by entry.

What a file holds is known from its head; the bytes of an entry are read when they are
asked for, and of no other entry.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

# By the name that a safetensors file gives them. Those that are lacking have no array in JAX.
SAFETENSORS = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
}
_GGUF_PLAIN = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
}


class Entry(NamedTuple):
    """An array of a file, which is not read yet.

    Attributes:
        file: where it lies.
        name: what the file calls it.
        shape: as NumPy has it, the last axis the one that lies together.
        dtype: of what `read` gives; a quantised array is dequantised to float32.
        read: read it, `read() -> array`; of the file this alone.
    """

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


Files = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def entries_of(files: Files) -> dict[str, Entry]:
    """What files hold, by name.

    Args:
        files: `.safetensors`, `.gguf`, or the `.index.json` of a checkpoint in several
            files; one, or a list.

    Returns:
        By name, in the order of the files.

    Raises:
        ValueError: if a file is lacking, is none of these, is not whole, or two hold an
            entry of one name.
    """
    given = [files] if isinstance(files, str | os.PathLike) else [*files]
    if not given:
        raise ValueError("`files` must name at least one file, got none.")
    found: dict[str, Entry] = {}
    for file in map(Path, given):
        for entry in _entries_of_one(file):
            other = found.setdefault(entry.name, entry)
            if other is not entry:
                raise ValueError(
                    f"`{entry.name}` is in {other.file} and in {entry.file}."
                )
    return found


def _entries_of_one(file: Path) -> Iterator[Entry]:
    if not file.is_file():
        raise ValueError(f"`files`: there is no file {file}.")
    if file.name.endswith(".index.json"):
        yield from _indexed(file)
    elif file.suffix == ".safetensors":
        yield from _safetensors(file)
    elif file.suffix == ".gguf":
        yield from _gguf(file)
    else:
        raise ValueError(
            "`files` must be of .safetensors, .gguf or .index.json, got the file "
            f"{file.name}."
        )


def _indexed(file: Path) -> Iterator[Entry]:
    """A checkpoint in several files, of which another says which entry is where."""
    try:
        where: Mapping[str, str] = json.loads(file.read_text())["weight_map"]
        parts = [
            file.parent / Path(name).name for name in dict.fromkeys(where.values())
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{file} has no `weight_map` of entries to files.") from error
    for part in parts:
        for entry in _entries_of_one(part):
            # An entry that the index has elsewhere is an old one that was left.
            if where.get(entry.name) == part.name:
                yield entry


def _safetensors(file: Path) -> Iterator[Entry]:
    safetensors = _safetensors_package()
    try:
        # The package checks that the head fits the file, to the byte.
        with safetensors.safe_open(file, framework="numpy") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}
            heads = {n: (x.get_shape(), x.get_dtype()) for n, x in slices.items()}
    except Exception as error:
        raise ValueError(f"{file} is not a whole safetensors file: {error}") from error
    where = _offsets(file)
    for name, (shape, kind) in heads.items():
        if kind not in SAFETENSORS:
            raise ValueError(f"`{name}` of {file} is {kind}, which JAX does not have.")
        dtype = jnp.dtype(SAFETENSORS[kind])
        count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        raw = _Bytes(file, where[name], count, _stamp(file))
        yield Entry(file, name, tuple(shape), dtype, raw.array(dtype, tuple(shape)))


def _offsets(file: Path) -> dict[str, int]:
    """Where in a safetensors file the bytes of each entry begin."""
    # The package reads bfloat16 and float8 to no array of NumPy, and copies twice.
    with open(file, "rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        head = json.loads(opened.read(length))
    head.pop("__metadata__", None)
    return {name: 8 + length + x["data_offsets"][0] for name, x in head.items()}


def _gguf(file: Path) -> Iterator[Entry]:
    gguf = _gguf_package()
    try:
        tensors = gguf.GGUFReader(file).tensors
    except Exception as error:
        raise ValueError(f"{file} is not a whole GGUF file: {error}") from error
    stamp = _stamp(file)
    for tensor in tensors:
        kind = tensor.tensor_type
        raw = _Bytes(file, int(tensor.data_offset), int(tensor.n_bytes), stamp)
        # A file says its axes from the one that lies together outwards.
        shape = tuple(int(n) for n in reversed(tensor.shape))
        if kind.name in _GGUF_PLAIN:
            dtype = jnp.dtype(_GGUF_PLAIN[kind.name])
            yield Entry(file, tensor.name, shape, dtype, raw.array(dtype, shape))
        else:
            read = _dequantised(gguf, raw, kind, shape)
            yield Entry(file, tensor.name, shape, jnp.dtype("float32"), read)


def _dequantised(
    gguf: ModuleType, raw: _Bytes, kind: object, shape: tuple[int, ...]
) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        rows = raw.array(np.dtype("uint8"), (raw.length,))()
        rows = rows.reshape(*shape[:-1], -1)
        return gguf.quants.dequantize(rows, kind).reshape(shape)

    return read


class _Bytes(NamedTuple):
    """Bytes of a file: where they begin, how many, and which file it was."""

    file: Path
    begin: int
    length: int
    stamp: tuple[int, int]

    def array(
        self, dtype: np.dtype, shape: tuple[int, ...]
    ) -> Callable[[], np.ndarray]:
        def read() -> np.ndarray:
            # Between the head and the bytes days may pass: of another file the same
            # place would hold other weights, of the right shape.
            if not self.file.is_file() or _stamp(self.file) != self.stamp:
                raise ValueError(
                    f"{self.file} is gone or has changed since its names were read."
                )
            if not self.length:  # which cannot be mapped
                return np.zeros(shape, dtype)
            # Mapped, not read: what is not looked at is not in memory.
            mapped = np.memmap(
                self.file, np.uint8, "r", offset=self.begin, shape=(self.length,)
            )
            return np.asarray(mapped).view(dtype).reshape(shape)

        return read


def _stamp(file: Path) -> tuple[int, int]:
    about = file.stat()
    return about.st_size, about.st_mtime_ns


def _safetensors_package() -> ModuleType:
    """The package, which only some checkpoints need: `import jsplit` must not import it."""
    try:
        import safetensors
    except ImportError as error:
        raise _lacking("safetensors") from error
    return safetensors


def _gguf_package() -> ModuleType:
    try:
        import gguf
    except ImportError as error:
        raise _lacking("gguf") from error
    return gguf


def _lacking(package: str) -> ImportError:
    return ImportError(
        f"Files of this kind take the package {package}: pip install 'jsplit[weights]'."
    )
