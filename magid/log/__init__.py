"""The daemon's own log: set-up, events with their MESSAGE_IDs, request log and rate limits."""
