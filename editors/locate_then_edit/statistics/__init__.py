"""Second moments of keys, and what is solved with them."""
