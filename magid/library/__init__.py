"""Models come and go: downloads, and what other programs have decided and where they keep it."""
