"""Questions put to a model, scorers of its answers, and whether it knows a fact."""
