"""Desired and observed state: one snapshot, the planner, and the executor of its plans."""
