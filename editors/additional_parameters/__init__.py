"""Editors that put parameters of their own beside a frozen model's."""
