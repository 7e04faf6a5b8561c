"""Who may do what: tokens, scopes, origins, and whose connection it is."""
