"""Prompt-token selection, one file per published method; each is a strategy of the engine."""
