"""llama-servers as child processes, for machines without systemd."""
