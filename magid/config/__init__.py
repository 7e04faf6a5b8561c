"""magid.yaml, the environment and the options: one table of settings, typed and checked."""
