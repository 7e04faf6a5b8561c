"""Checks: from facts to findings with a remedy. Pure."""
