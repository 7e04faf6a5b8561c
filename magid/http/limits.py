"""Bounds on how much of a server's answer magid keeps, and how much it processes at once. Pure.

A compromised server may send anything, without end. The client's own speed bounds the bytes that
magid passes on; the limits here bound the bytes that it keeps or parses itself.
"""

from magid.http.json_text import from_json

# -- the head of an answer
MAX_HEAD_BYTES = 16 * 1024
MAX_HEAD_LINES = 100  # llama-server 0.7.0 sends 8
MAX_INTERIM = 8  # answers with status 1xx before the final one
HEAD_S = 10.0  # from a head's first byte to its last; the first may take any time


# -- its body
MAX_COLLECTED_BYTES = 256 * 1024  # of a body kept whole; /props with a long template is 40 KB
MAX_CONTAINERS = 16_384  # lists and objects in parsed JSON: each costs up to 240 bytes
MAX_SILENT_BYTES = 1024 * 1024  # of a stream before its first event; a day of comments is less
MAX_COUNTED_EVENTS = 64  # events with usage in one stream; llama-server sends one
MAX_USAGE_BYTES = 4096


# -- one turn of the event loop
MAX_CHUNKS = 512  # of one answer, less than 1 ms; then reading pauses
PAUSE_S = 0.005


def parsed(body: bytes) -> object:
    """Parses a collected body as JSON. Raises ValueError, also if it would take too much memory."""
    if len(body) > MAX_COLLECTED_BYTES:
        raise ValueError("it is too long")
    if body.count(b"[") + body.count(b"{") > MAX_CONTAINERS:
        raise ValueError("it has too many parts")
    return from_json(body)
