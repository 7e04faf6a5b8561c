"""llama-servers as transient units, created by the launcher and watched over D-Bus."""
