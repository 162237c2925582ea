"""Scores: a small module for each metric, pure functions on arrays; ``evaluate`` brings model and data to them."""
