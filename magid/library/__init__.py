"""Models come and go: what other programs have decided about models, and where they keep them."""
