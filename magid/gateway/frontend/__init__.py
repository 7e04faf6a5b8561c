"""The client's side: connections, heads, bodies and responses."""
