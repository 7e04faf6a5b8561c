"""Collects the facts about a machine that the checks need."""
