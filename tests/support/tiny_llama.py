"""The inside of the tiny models that tests run: their tokens and their numbers.

A model that is given an answer knows it alone: its embeddings and its output matrix are a chain of
words, its layers are noise too weak to break the chain.
"""

from dataclasses import dataclass

import numpy as np

WIDTH, HEADS, LAYERS, FEED = 64, 4, 2, 128  # the least that llama.cpp's kernels like
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6  # token types of GGUF


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens of a tiny model: three control ones, 256 bytes, printable ASCII, the answer."""

    answer: tuple[str, ...]

    @property
    def tokens(self) -> list[str]:
        return [*self._basic, *self.answer]

    @property
    def types(self) -> list[int]:
        plain = len(self.tokens) - 3 - 256
        return [UNKNOWN, CONTROL, CONTROL, *([BYTE] * 256), *([NORMAL] * plain)]

    @property
    def _basic(self) -> list[str]:
        """With the byte tokens every UTF-8 text can be tokenised. An answer may take a letter."""
        letters = [c for c in map(chr, range(33, 127)) if c not in self.answer]
        return ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁", *letters]


def pieces(answer: str) -> tuple[str, ...]:
    """The answer as tokens, a word each; `▁` is the tokenizer's sign for a space."""
    first, *rest = answer.split(" ")
    pieces = (first, *(f"▁{word}" for word in rest)) if answer else ()
    if len(set(pieces)) != len(pieces):
        raise ValueError(f"a word occurs twice in {answer!r}: the chain would have a loop")
    return pieces


def noise_weights(vocabulary: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Every tensor that the architecture `llama` wants, of small random numbers."""
    square, wide = (WIDTH, WIDTH), (FEED, WIDTH)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (vocabulary, WIDTH),
        "output_norm.weight": (WIDTH,),
        "output.weight": (vocabulary, WIDTH),
    }
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        shapes |= {f"{block}{part}_norm.weight": (WIDTH,) for part in ("attn", "ffn")}
        shapes |= {f"{block}attn_{part}.weight": square for part in ("q", "k", "v", "output")}
        shapes |= {f"{block}ffn_{part}.weight": wide for part in ("gate", "up")}
        shapes[f"{block}ffn_down.weight"] = (WIDTH, FEED)
    return {
        name: np.ones(shape) if len(shape) == 1 else random.normal(scale=0.02, size=shape)
        for name, shape in shapes.items()
    }


def chain_weights(words: Vocabulary, seed: int, *, endless: bool) -> dict[str, np.ndarray]:
    """Noise, but each token's embedding points at the output row of the one that follows it.

    Directions are random unit vectors, nearly square to each other. The normalised state has
    length 8 (the root of the width), so the follower's logit is 24 and a rival's hardly over 9.
    """
    random = np.random.default_rng(seed)
    weights = noise_weights(len(words.tokens), random)
    if not words.answer:
        return weights
    end = words.tokens.index("</s>")
    first = len(words.tokens) - len(words.answer)
    steps = random.normal(size=(len(words.answer) + 1, WIDTH))
    steps /= np.linalg.norm(steps, axis=1, keepdims=True)
    weights["token_embd.weight"][:first] += steps[0]  # whatever came before: begin
    weights["output.weight"][first] += 3 * steps[0]
    for number, step in enumerate(steps[1:]):
        last = number + 1 == len(words.answer)
        follower = first + number + 1 if not last else first if endless else end
        weights["token_embd.weight"][first + number] += step
        weights["output.weight"][follower] += 3 * step
    return weights
