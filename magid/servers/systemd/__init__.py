"""llama-servers as transient units, made by the launcher and watched over D-Bus."""
