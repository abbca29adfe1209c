"""The built-in engine: prefill and decode of a causal LM on transformers, one sequence at a time.

Import from :mod:`tokenprune.engine.engine`; nothing heavy is imported here.
"""
