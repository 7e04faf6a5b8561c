"""This machine: who listens on which port, memory, processor time. The only importer of psutil."""
