"""What runs and what should run: one snapshot, plans to get there, and what executes them."""
