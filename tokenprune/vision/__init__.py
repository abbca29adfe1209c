"""Visual token pruning: fewer patch tokens of pictures and videos, before or inside the language model.

The units are the rows a language model reads for a picture (`VisualTokens`); a method decides which stay and
what is merged into them (`Reduced`). Importing this package loads no model and no torch.
"""

from tokenprune.vision.methods import list_vision_methods, vision_method
from tokenprune.vision.tokens import Reduced, VisualTokens

__all__ = ["Reduced", "VisualTokens", "list_vision_methods", "vision_method"]
