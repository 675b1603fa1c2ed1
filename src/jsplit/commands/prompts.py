"""Prompts as token ids, a sequence a line, and those of one length side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

LARGEST = 2**31 - 1


def read(file: Path) -> list[list[int]]:
    """Read prompts.

    Args:
        file: text, a prompt a line, its token ids with spaces between them; or what NumPy
            saves (.npy), int [prompt, position].

    Returns:
        The token ids of each prompt.

    Raises:
        ValueError: naming the line, and never what is in it.
    """
    if file.suffix == ".npy":
        found = np.load(file, allow_pickle=False)
        if found.ndim != 2 or found.dtype.kind not in "iu":
            raise ValueError(
                f"`--prompts` {file} must hold int [prompt, position], got "
                f"{found.dtype}{[*found.shape]}."
            )
        return checked(f"`--prompts` {file}", found.tolist())
    lines = file.read_text(encoding="utf-8").splitlines()
    return of_lines(f"`--prompts` {file}", lines)


def of_lines(where: str, lines: Iterable[str]) -> list[list[int]]:
    """Prompts of text.

    Args:
        where: it comes from.
        lines: a prompt each, its token ids with spaces between them.

    Returns:
        The token ids of each prompt.

    Raises:
        ValueError: naming the line, and never what is in it.
    """
    found = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not all(w.isascii() and w.isdigit() for w in words):
            raise ValueError(
                f"{where}, line {number}: must be token ids with spaces between them."
            )
        found.append([int(w) for w in words])
    return checked(where, found)


def checked(where: str, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Refuse what is no list of prompts.

    Args:
        where: they come from.
        prompts: token ids of each.

    Raises:
        ValueError: naming the number of the prompt, and never what is in it.
    """
    found = [[*map(int, prompt)] for prompt in prompts]
    for number, prompt in enumerate(found, 1):
        if not prompt or not 0 <= min(prompt) <= max(prompt) <= LARGEST:
            raise ValueError(
                f"prompt {number} of {where} must be token ids, at least one, from 0 on."
            )
    if not found:
        raise ValueError(f"there is no prompt in {where}.")
    return found


def side_by_side(prompts: Sequence[Sequence[int]], most: int) -> list[list[int]]:
    """Prompts that can be sequences of one session: those as long as each other.

    Args:
        prompts: token ids of each.
        most: sequences of a session.

    Returns:
        Their places, session by session.
    """
    by_length: dict[int, list[int]] = {}
    for place, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(place)
    found = []
    for places in by_length.values():
        found += [places[k : k + most] for k in range(0, len(places), most)]
    return found


def keys_of(prompts: Sequence[Sequence[int]], seed: int) -> jax.Array:
    """A key for each prompt, of which its tokens are drawn.

    A function of the prompt and of how often it came before: whatever goes beside it,
    it has the same draws, and no two have them in common.

    Args:
        prompts: token ids of each.
        seed: of all.

    Returns:
        Their keys, [prompt].
    """
    before: Counter[bytes] = Counter()
    found = []
    for prompt in prompts:
        text = np.asarray(prompt, "<u4").tobytes()
        key = jax.random.key(seed)
        for word in (*np.frombuffer(sha256(text).digest()[:16], "<u4"), before[text]):
            key = jax.random.fold_in(key, int(word))
        before[text] += 1
        found.append(key)
    return jnp.stack(found)
