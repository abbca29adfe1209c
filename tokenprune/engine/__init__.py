"""The built-in engine: prefill and decode of a causal LM whose prefill can drop tokens between layers.

Import from :mod:`tokenprune.engine.engine` and :mod:`tokenprune.engine.methods`; nothing heavy is imported
here.

- ``weights``, ``decoder``, ``attention``, ``kv``: the arithmetic, on weights shared with
  transformers;
- ``prompt``: token ids, and the features of visual tokens that stand in some of their places;
- ``reading``: packed prefill, early exit and decoding;
- ``rules``, ``schedule``: how tokens are scored and what may happen to them between layers;
- ``methods``: one file per published method;
- ``engine``, ``sampling``, ``detokenize``, ``runner``, ``fair_lock``: generation for callers.
"""
