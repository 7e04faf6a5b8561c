"""The bodies and answers of the REST API, from which OpenAPI is generated."""
