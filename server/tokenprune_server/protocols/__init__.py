"""The prunable protocols by route: a new protocol is one file and one line here."""

from tokenprune_server.protocols.base import Protocol
from tokenprune_server.protocols.chat import ChatProtocol
from tokenprune_server.protocols.completions import CompletionsProtocol

PROTOCOLS: tuple[Protocol, ...] = (ChatProtocol(), CompletionsProtocol())
BY_ROUTE: dict[str, Protocol] = {route: protocol for protocol in PROTOCOLS for route in protocol.routes}

__all__ = ["BY_ROUTE", "PROTOCOLS", "Protocol"]
