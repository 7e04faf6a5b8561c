"""Tiny models with layers that predict further tokens (MTP), whole and in two files.

Of the architecture `hy_v3`, which llama-server runs and drafts with. The answer is a chain of words
as in all tiny models, and the further layer lets each token follow its own embedding: every guess
is right.
"""

from pathlib import Path
from typing import Literal

import numpy as np

from tests.support import gguf_writing, ggufs, tiny_llama
from tests.support.tiny_llama import FEED, HEADS, LAYERS, WIDTH

ARCHITECTURE = "hy_v3"
Part = Literal["whole", "trunk", "draft"]


def write(path: Path, part: Part = "whole", *, name: str = "Demo", context: int = 2048) -> Path:
    """The whole model; one that lacks the layer its header declares; or that layer alone."""
    words = tiny_llama.Vocabulary(tiny_llama.pieces(ggufs.ANSWER))
    trunk = tiny_llama.chain_weights(words, 0, endless=False)
    first = {n: array for n, array in trunk.items() if n.startswith("blk.0.")}
    further = {n.replace("blk.0.", f"blk.{LAYERS}."): array for n, array in first.items()}
    for layer in range(LAYERS + 1):
        norms = {f"blk.{layer}.attn_{x}_norm.weight": np.ones(WIDTH // HEADS) for x in "qk"}
        (trunk if layer < LAYERS else further).update(norms)
    block = f"blk.{LAYERS}.nextn."
    further |= {f"{block}{x}.weight": np.ones(WIDTH) for x in ("enorm", "hnorm")}
    further[f"{block}shared_head_norm.weight"] = np.ones(WIDTH)
    further[f"{block}eh_proj.weight"] = np.hstack([np.eye(WIDTH), np.zeros((WIDTH, WIDTH))])
    ends = {n: array for n, array in trunk.items() if not n.startswith("blk.")}
    tensors = {"whole": trunk | further, "trunk": trunk, "draft": ends | further}[part]
    pairs = ggufs._model_pairs(name, words, "F32", context, ARCHITECTURE) | {
        "tokenizer.chat_template": ggufs.CHAT_TEMPLATE,
        f"{ARCHITECTURE}.block_count": LAYERS + 1,
        f"{ARCHITECTURE}.nextn_predict_layers": 1,
        f"{ARCHITECTURE}.expert_feed_forward_length": FEED,
    }
    return gguf_writing.write_file(path, pairs, gguf_writing.encoded_weights(tensors, "F32"))
