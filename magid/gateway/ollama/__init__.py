"""Ollama's API over the same models: its names and shapes, and what goes on to a server."""
