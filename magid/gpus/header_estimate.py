"""Estimates a server's memory by its model's header, where llama-server predicts nothing. Pure.

Weights are exact, the cache of the context is an upper bound, and what is computed with is a guess
from above. Against llama-server's own predictions the whole is off by 1 to 11 % where all layers
attend to all of the context (llama, qwen3, qwen3moe, deepseek2, mamba2, qwen3next), and too high by
up to 65 % where some attend to a window. So it says what surely fits and what surely does not, and
places nothing.
"""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from magid.discovery.model_shape import ModelShape
from magid.llama.server_shape import ServerShape

MARGIN: Final = 0.10  # of the whole: what an unknown architecture may need beyond the estimate
FIXED: Final = 64 << 20  # what even a tiny model computes with
_WIDTHS: Final = 8  # matrices of activations that are alive at once
_F32: Final = 4
# ggml's bytes for each element, by the name that --cache-type-k takes.
_ELEMENT: Final[Mapping[str, float]] = {
    "f32": 4, "f16": 2, "bf16": 2, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32,
    "q4_1": 20 / 32, "q4_0": 18 / 32, "iq4_nl": 18 / 32,
}  # fmt: skip


class HeaderEstimate(Struct, frozen=True):
    """In bytes. The matrix of the tokens stays in the machine's memory, and a tied one does too."""

    weights: int
    device_weights: int
    context: int
    compute: int

    @property
    def on_devices(self) -> int:
        return self.device_weights + self.context + self.compute

    @property
    def on_processor(self) -> int:
        return self.weights + self.context + self.compute


def estimate_by_header(shape: ModelShape, server: ServerShape) -> HeaderEstimate | None:
    """Returns the estimate; None if the header does not say enough."""
    if not shape.weights or not shape.width:
        return None
    cache = server.ctx * (
        shape.keys * _ELEMENT.get(server.key_type, _F32)
        + shape.values * _ELEMENT.get(server.value_type, _F32)
    )
    compute = FIXED + _F32 * server.ubatch * (shape.vocabulary // 2 + _WIDTHS * shape.width)
    return HeaderEstimate(
        weights=shape.weights,
        device_weights=shape.weights - (shape.embedding if shape.output else 0),
        context=int(cache) + shape.state * max(1, server.slots),
        compute=compute,
    )


def at_most(estimated: int) -> int:
    """Returns the estimate with its margin."""
    return int(estimated * (1 + MARGIN))
