"""llama-servers as child processes, where there is no systemd."""
