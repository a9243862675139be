"""Where a model holds its facts: causal tracing, and its report."""
