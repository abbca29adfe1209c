"""Pictures that are given by URL: fetched, from addresses that may be fetched from."""

import asyncio
import ipaddress
import socket
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp import AddrInfoType

from tokenprune_server.vision.parts import Picture, refused

_REDIRECTS = 3
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class _PrivateError(OSError):
    """An address that may not be fetched from."""


def _public_socket(address: AddrInfoType) -> socket.socket:
    """A socket for an address that is public; raises _PrivateError for another.

    All connections pass here, with the very address that is connected to: however a URL writes it, whatever a
    name leads to, and whatever it led to before.
    """
    family, kind, protocol, _, to = address
    if not is_public(str(to[0])):
        raise _PrivateError(_PRIVATE)
    return socket.socket(family, kind, protocol)


class Fetcher:
    """Fetches pictures by URL.

    Args:
        max_bytes: of one picture.
        timeout_s: for one picture, redirects included.
        allow_private: also from loopback and private networks.
    """

    def __init__(self, max_bytes: int, timeout_s: float, *, allow_private: bool) -> None:
        self._max_bytes, self._timeout_s, self._allow_private = max_bytes, timeout_s, allow_private

    async def __call__(self, picture: Picture) -> bytes:
        """The bytes of a picture.

        Raises:
            RequestError: it cannot be fetched, or not be fetched from there.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._fetch(picture)
        except TimeoutError as error:
            raise refused(picture.place, f"could not be fetched within {self._timeout_s:g} s") from error
        except _PrivateError as error:
            raise refused(picture.place, _PRIVATE) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if isinstance(getattr(error, "os_error", None), _PrivateError):
                raise refused(picture.place, _PRIVATE) from error
            # Not more than the kind: the text may tell of a network that the client cannot see.
            raise refused(picture.place, f"could not be fetched ({type(error).__name__})") from error

    async def _fetch(self, picture: Picture) -> bytes:
        made_by = None if self._allow_private else _public_socket
        connector = aiohttp.TCPConnector(socket_factory=made_by, force_close=True)
        # No cookies, no proxy of the environment, no credentials of a netrc file.
        async with aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
        ) as session:
            url = picture.url
            for _ in range(_REDIRECTS + 1):
                self._check(picture, url)
                async with session.get(url, allow_redirects=False) as answer:
                    if answer.status in (301, 302, 303, 307, 308) and "location" in answer.headers:
                        url = urljoin(url, answer.headers["location"])
                        continue
                    if answer.status != 200:
                        raise refused(
                            picture.place, f"could not be fetched: its server answered {answer.status}"
                        )
                    return await self._read(picture, answer)
        raise refused(picture.place, f"could not be fetched: more than {_REDIRECTS} redirects")

    def _check(self, picture: Picture, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise refused(picture.place, "could not be fetched: only http and https URLs are")

    async def _read(self, picture: Picture, answer: Any) -> bytes:
        data = bytearray()
        async for chunk in answer.content.iter_chunked(64 * 1024):
            data += chunk
            if len(data) > self._max_bytes:
                raise refused(
                    picture.place,
                    f"has more than {self._max_bytes} bytes (setting server.vision.max_image_bytes)",
                )
        if not data:
            raise refused(picture.place, "is empty")
        return bytes(data)


_PRIVATE = "is at an address that is not public (setting server.vision.allow_private)"


def is_public(address: str) -> bool:
    """Whether an IP address, IPv4 in IPv6 clothes included, is one of the public internet."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo is not None else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast
