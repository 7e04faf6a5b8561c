"""The daemon's side of downloads: asks for them, looks how far they are, and tells others."""
