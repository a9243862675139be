"""Editors that remember requests and look them up when they are asked."""
