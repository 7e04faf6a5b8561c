"""What keeps magid from starting, found before a start: `magid --check`."""
