"""What takes long to show: `make soak`. Each topic is a module; `make test` runs a small part."""
