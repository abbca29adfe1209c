"""Named methods of visual token pruning, one file each; each is put together from score, select and merge."""

from tokenprune.vision.methods.base import (
    VisionMethod,
    VisionMethodInfo,
    list_vision_methods,
    vision_method,
    vision_method_info,
)

__all__ = ["VisionMethod", "VisionMethodInfo", "list_vision_methods", "vision_method", "vision_method_info"]
