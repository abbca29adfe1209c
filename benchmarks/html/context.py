"""What every section is handed: the shared context, and the methods compared."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.common import context
from benchmarks.html.methods import Method


@dataclass
class Context(context.Context):
    methods: list[Method] = field(default_factory=list)
