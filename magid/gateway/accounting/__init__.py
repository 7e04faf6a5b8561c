"""What requests cost: the record of each, and statistics over all of them."""
