"""The survey's findings as hypotheses: what runs that are through say of each."""
