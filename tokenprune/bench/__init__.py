"""Measuring: time to first token, cost and quality, before and after pruning."""
