"""Files that survive a crash: atomic replacement, versioned documents, strict YAML."""
