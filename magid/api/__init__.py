"""The REST API and its events for a WebUI. The only importer of sanic and prometheus_client."""
