"""Limits of a llama-server that runs for a moment to answer a question, as a child or a unit."""

from msgspec import Struct

from magid.errors import ServerFailed

MAX_BYTES = 45_000  # of its output; fits into the launcher's reply


class ShortRun(Struct, frozen=True):
    """What it is asked, and how long it may take. `purpose` follows "cannot "."""

    purpose: str
    by_hand: str  # how a person sees what it prints
    seconds: float
    max_bytes: int = MAX_BYTES

    def late(self) -> ServerFailed:
        return ServerFailed(
            f"cannot {self.purpose}: llama-server did not end within {self.seconds:g} s; a driver "
            "may hang: see `journalctl -k`"
        )

    def too_long(self) -> ServerFailed:
        return ServerFailed(
            f"cannot {self.purpose}: llama-server printed more than {self.max_bytes // 1000} KB; "
            f"{self.by_hand} to see what it prints"
        )
