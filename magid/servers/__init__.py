"""Running llama-servers: one interface, `ServerBackend`, and what implements it."""
