"""Loading and running encoders and causal LMs, and the named small models.

Import from the modules of this package; nothing heavy is imported here.
"""
