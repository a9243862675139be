"""Editors that add parameters beside the model's own."""
