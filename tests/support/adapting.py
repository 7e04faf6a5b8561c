"""LoRA adapters that a tiny model's answer shows: it says one of two letters, again and again."""

from pathlib import Path

import numpy as np

from tests.support import ggufs, tiny_llama

_STRENGTH = 50.0


def write(path: Path, letters: str, *, architecture: str = "llama", rank: int = 4) -> Path:
    """For the output matrix of `ggufs.write_chat_model`. Its state decides on the letter."""
    tokens = tiny_llama.Vocabulary(tiny_llama.pieces(ggufs.ANSWER)).tokens
    inner, outer = np.zeros((rank, tiny_llama.WIDTH)), np.zeros((len(tokens), rank))
    inner[0] = np.random.default_rng(3).normal(size=tiny_llama.WIDTH)
    for letter, sign in zip(letters, (1, -1), strict=True):
        outer[tokens.index(letter), 0] = sign * _STRENGTH
    pairs = {
        "general.architecture": architecture,
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": float(rank),
    }
    matrix = "output.weight.lora_"
    return ggufs.write_tensors(path, pairs, {f"{matrix}a": inner, f"{matrix}b": outer})
