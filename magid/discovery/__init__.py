"""GGUF files on disk: found, read, named, put together into models, and given a tier."""
