"""Texts judged by another language model, and how far such a judge can be trusted."""
