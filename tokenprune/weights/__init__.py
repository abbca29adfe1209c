"""The weight-pruning backend: a recipe is structure x criterion x allocation x compensation x recovery.

Importing it makes ``AutoModelForCausalLM`` able to load the models it writes.
"""

from tokenprune.weights.registration import register_when_used

register_when_used()
