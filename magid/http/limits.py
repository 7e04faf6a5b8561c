"""How much of what a server sends is kept, and how much of it is worked on at once. Pure.

A server that was taken over may send anything, without end. What goes on to a client is bounded by
how fast the client takes it; whatever magid keeps or takes apart itself is bounded here.
"""

from pydantic_core import from_json

# -- the head of an answer
MAX_HEAD_BYTES = 16 * 1024
MAX_HEAD_LINES = 100  # llama-server 0.7.0 sends 8
MAX_INTERIM = 8  # answers of status 1xx before the one that counts
HEAD_S = 10.0  # from a head's first byte to its last; how long the first one takes is no matter


# -- its body
MAX_COLLECTED_BYTES = 256 * 1024  # wherever one is kept whole; /props with a long template is 40 KB
MAX_CONTAINERS = 16_384  # lists and objects of JSON that is parsed: each costs up to 240 bytes
MAX_SILENT_BYTES = 1024 * 1024  # of a stream before its first event; comments of a day are less
MAX_COUNTED_EVENTS = 64  # whose usage is counted up; llama-server sends one in a stream
MAX_USAGE_BYTES = 4096


# -- one turn of the event loop
MAX_CHUNKS = 512  # of one answer, less than 1 ms; then it waits
PAUSE_S = 0.005


def parsed(body: bytes) -> object:
    """A collected body as JSON. Raises ValueError also where it would cost more than its size."""
    if len(body) > MAX_COLLECTED_BYTES:
        raise ValueError("it is too long")
    if body.count(b"[") + body.count(b"{") > MAX_CONTAINERS:
        raise ValueError("it has too many parts")
    return from_json(body)
