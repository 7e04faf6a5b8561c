"""HTTP/1.1 without I/O: strict framing, and how much of an answer is kept."""
