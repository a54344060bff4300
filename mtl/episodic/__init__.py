"""Strategies that learn from episodes: what they share."""
