"""The daemon's own log: set-up, the events with their MESSAGE_IDs, what limits their rate."""
