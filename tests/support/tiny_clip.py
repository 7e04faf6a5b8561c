"""A projector that a real llama-server loads, of random numbers: it sees images as it likes.

Of LLaVA's form, the simplest that llama.cpp knows: a vision encoder of CLIP over four patches, and
two matrices between it and the model's embeddings.
"""

from pathlib import Path

import numpy as np

from tests.support import ggufs, tiny_llama

SIDE = 28  # of an image, in pixels
PATCH = 14
TOKENS = (SIDE // PATCH) ** 2  # that an image takes in a prompt
_WIDTH, _FEED, _HEADS, _LAYERS = 32, 64, 2, 2


def write_projector(path: Path, *, name: str) -> Path:
    """For models of `tiny_llama`'s width."""
    pairs: dict[str, object] = {
        "general.architecture": "clip",
        "general.type": "mmproj",
        "general.name": name,
        "clip.has_vision_encoder": True,
        "clip.projector_type": "mlp",
        "clip.use_gelu": True,
        "clip.vision.image_size": SIDE,
        "clip.vision.patch_size": PATCH,
        "clip.vision.embedding_length": _WIDTH,
        "clip.vision.feed_forward_length": _FEED,
        "clip.vision.projection_dim": tiny_llama.WIDTH,
        "clip.vision.block_count": _LAYERS,
        "clip.vision.attention.head_count": _HEADS,
        "clip.vision.attention.layer_norm_epsilon": 1e-5,
        "clip.vision.image_mean": [0.5] * 3,
        "clip.vision.image_std": [0.5] * 3,
    }
    return ggufs.write_tensors(path, pairs, _weights())


def _weights() -> dict[str, np.ndarray]:
    width, model = _WIDTH, tiny_llama.WIDTH
    shapes: dict[str, tuple[int, ...]] = {
        "v.patch_embd.weight": (width, 3, PATCH, PATCH),
        "v.class_embd": (width,),
        "v.position_embd.weight": (TOKENS + 1, width),
        "mm.0.weight": (model, width),
        "mm.0.bias": (model,),
        "mm.2.weight": (model, model),
        "mm.2.bias": (model,),
    }
    norms = ["v.pre_ln"]
    for layer in range(_LAYERS):
        block = f"v.blk.{layer}."
        norms += [f"{block}ln1", f"{block}ln2"]
        matrices = {f"attn_{part}": (width, width) for part in ("q", "k", "v", "out")}
        matrices |= {"ffn_up": (_FEED, width), "ffn_down": (width, _FEED)}
        for matrix, shape in matrices.items():
            shapes |= {f"{block}{matrix}.weight": shape, f"{block}{matrix}.bias": shape[:1]}
    random = np.random.default_rng(0)
    weights = {name: random.normal(scale=0.05, size=shape) for name, shape in shapes.items()}
    for norm in norms:
        weights |= {f"{norm}.weight": np.ones(width), f"{norm}.bias": np.zeros(width)}
    return weights
