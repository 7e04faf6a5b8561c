"""Adapters to systemd without magid's meaning: D-Bus, the journal, sd_notify."""
