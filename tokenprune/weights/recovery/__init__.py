"""Training behind the pruning; weights that were pruned stay zero."""
