"""Authenticates callers: tokens and scopes, Host and Origin, connections from models' sandboxes."""
