"""The weight-pruning backend: a recipe is structure x criterion x allocation x compensation x recovery."""
