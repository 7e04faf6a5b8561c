"""HTTP/1.1 without I/O: strict framing, limits, and the rules of requests and responses."""
