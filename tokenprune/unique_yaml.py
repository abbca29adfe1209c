"""YAML in which a key that stands twice is a mistake: plain YAML loaders let the last one win in silence."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """Safe, and refuses mappings with duplicate keys."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
    twice = next((key for n, key in enumerate(keys) if key in keys[:n]), None)
    if twice is not None:
        raise yaml.constructor.ConstructorError(None, None, f"{twice!r} stands twice", node.start_mark)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load(text: str) -> Any:
    """Read YAML as `yaml.safe_load` does.

    Raises:
        yaml.YAMLError: it is none, or a key stands twice in a mapping.
    """
    return yaml.load(text, Loader=_Loader)
