"""Which model a request is for. Pure: no I/O, no clock."""
