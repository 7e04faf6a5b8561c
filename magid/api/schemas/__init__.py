"""The request bodies and answers of the REST API; OpenAPI is generated from them."""
