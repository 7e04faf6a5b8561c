"""How messages word things."""
