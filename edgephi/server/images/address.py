"""Which addresses of the network an image may be fetched from.

Whoever can send a request could have the server ask for it what only the server reaches: a router's page, a
cloud's metadata, a service on this machine. So names are looked up here, the address that was looked at is
the one that is connected to, and unless all are allowed it must be one of the public internet.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket

from edgephi.server.refusal import Refusal

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # holds an IPv4 address, to which a router may lead
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")  # all others are of some special use


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet, and so is the one that it may stand for."""
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not address.is_multicast
    if address in _NAT64:
        return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address.teredo is not None or (address.sixtofour is not None and not is_public(address.sixtofour)):
        return False
    return address in _GLOBAL_UNICAST and address.is_global


async def address_of(host: str, port: int, *, private: bool, place: str) -> str:
    """An address of a host that may be connected to. Raises Refusal, which names `place`."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Refusal(
            400,
            f"cannot fetch the image: no address of the host {host[:100]!r}",
            param=place,
            code="image_not_fetched",
        ) from None
    addresses = [str(sockaddr[0]) for *_, sockaddr in found]
    for address in addresses:
        # What stands behind "%" names a network card, which only private addresses need.
        if private or ("%" not in address and is_public(ipaddress.ip_address(address))):
            return address
    raise Refusal(
        400,
        f"cannot fetch the image: {host[:100]!r} is no host of the public internet, and this server asks no "
        "other (--image-urls all)",
        param=place,
        code="address_not_allowed",
    )
