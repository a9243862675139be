"""How many requests meet one model: each protocol edits, asks, and writes what was answered."""
