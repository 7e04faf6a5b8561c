"""Users' decisions about models: overrides in the registry, profiles, and effective values."""
