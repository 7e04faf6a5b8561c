"""What users decided about models: overrides in the registry, profiles, and what follows."""
