"""The only part that runs as root: creates the units of models from requests that it checks."""
