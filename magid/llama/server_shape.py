"""What of a server's settings its memory depends on, as far as a rule of ours needs it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from magid.llama.spec import ServerSpec

UBATCH: Final = 512  # llama-server's own
SLOTS: Final = 4  # llama-server's own
CACHE_RAM: Final = 8192 << 20  # llama-server's own, in bytes
_NOT_MAPPED: Final = frozenset({"--no-mmap", "--mlock"})
_MAPPED_MODES: Final = (None, "auto", "mmap")


@dataclass(frozen=True, slots=True)
class ServerShape:
    """The context is that of all slots together."""

    ctx: int
    slots: int = SLOTS
    ubatch: int = UBATCH
    key_type: str = "f16"
    value_type: str = "f16"


def server_shape(spec: ServerSpec, ctx: int) -> ServerShape:
    """Returns the shape of this server with this context."""
    args = spec.extra_args
    ubatch = value_of(args, "-ub", "--ubatch-size")
    return ServerShape(
        ctx,
        spec.parallel or SLOTS,
        int(ubatch) if ubatch and ubatch.isdecimal() else UBATCH,
        value_of(args, "-ctk", "--cache-type-k") or "f16",
        value_of(args, "-ctv", "--cache-type-v") or "f16",
    )


def is_mapped(spec: ServerSpec) -> bool:
    """Returns whether weights in the machine's memory are pages of their file.

    Such pages the kernel can drop and read again. Not with --no-mmap, and not if they are locked.
    """
    mode = value_of(spec.extra_args, "-lm", "--load-mode")
    return _NOT_MAPPED.isdisjoint(spec.extra_args) and mode in _MAPPED_MODES


def cache_ram(spec: ServerSpec) -> int | None:
    """Returns how large the user lets the prompt cache become, in bytes; None: as magid chooses.

    It keeps texts that are completed. One without a limit counts as one of llama-server's own size.
    """
    if spec.kind in ("embedding", "reranker"):
        return 0
    value = value_of(spec.extra_args, "-cram", "--cache-ram")
    if value is None:
        return None
    return CACHE_RAM if int(value) < 0 else int(value) << 20


def value_of(args: Sequence[str], *names: str) -> str | None:
    """Returns the value of an option in the user's arguments; None if it is not there."""
    for word in args:
        name, equals, value = word.partition("=")
        if equals and name in names:
            return value
    return next((value for name, value in pairwise(args) if name in names), None)
