"""Settings of an editor for a model that has no preset: found on val, by successive halving."""
