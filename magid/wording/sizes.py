"""Sizes of memory and files in messages."""


def size(count: float) -> str:
    """Returns `300 B`, `1.5 MiB`, `23.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
