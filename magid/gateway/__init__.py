"""Requests for models, from the client's bytes to the server's and back."""
