"""The version, and nothing else: code here would tie every module into one import cycle."""

__version__ = "0.1.0"
