"""Selection of prompt tokens in front of an upstream that takes token ids.

The chat is rendered here as the upstream renders it, an early part of a model says which tokens of its
documents the question needs, and the ids of the others go to ``/v1/completions``; the answer comes back as a
chat answer. A prompt string of ``/v1/completions`` is read as it is. Where ids cannot go, the text of the
kept tokens goes the usual way.
"""
