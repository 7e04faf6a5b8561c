"""Running llama-servers: the interface `ServerBackend` and its implementations."""
