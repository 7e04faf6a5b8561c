"""`magictl`: a client of the REST API that starts in milliseconds."""
