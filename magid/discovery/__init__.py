"""Finds GGUF files, reads and names them, groups them into models and assigns tiers."""
