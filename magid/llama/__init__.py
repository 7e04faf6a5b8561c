"""All that magid knows of llama-server: its program, its options, its HTTP API."""
