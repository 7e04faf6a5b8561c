"""Settings from magid.yaml, the environment and the command line: one typed, checked table."""
