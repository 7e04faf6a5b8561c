"""The only part that runs as root: makes the units of models, from orders that it checks."""
