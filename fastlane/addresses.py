"""Which addresses a submitter may have others connect to: pure rules, no name is resolved here.

A submitter chooses the URL or the registry, and the server or one of its hosts makes the request:
without rules that is a way into everything that only they can reach (CWE-918). So addresses are
public or refused, unless the operator lists their network. Sources: the IANA special-purpose
address registries (RFC 6890 and updates), RFC 4291, 3056, 4380, 6052, 8215 for addresses that carry
an IPv4 address inside.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(map(ipaddress.ip_network, texts))


# Written out, because what the standard library calls private differs from release to release.
_NOT_PUBLIC_V4 = _networks(
    "0.0.0.0/8",  # this network; Linux takes 0.0.0.0 for itself
    "10.0.0.0/8",
    "100.64.0.0/10",  # behind a carrier's NAT; also the metadata of one cloud (100.100.100.200)
    "127.0.0.0/8",
    "168.63.129.16/32",  # a cloud's host, reachable from its machines only
    "169.254.0.0/16",  # link-local, and the metadata of most clouds (169.254.169.254)
    "172.16.0.0/12",
    "192.0.0.0/24",  # protocol assignments, and the metadata of one cloud (192.0.0.192)
    "192.0.2.0/24",
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",  # relays of 6to4
    "192.168.0.0/16",
    "192.175.48.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # reserved, and broadcast
)
# Every address that has been assigned is in 2000::/3; the rest of IPv6 is refused.
_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = _networks(
    "2001::/23",  # protocol assignments, Teredo (2001::/32) among them
    "2001:db8::/32",
    "2002::/16",  # 6to4: see _carried
    "2620:4f:8000::/48",
    "3fff::/20",
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def carried(address: Address) -> Address:
    """The IPv4 address that packets to *address* go to in the end, or *address* itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def is_public(address: Address) -> bool:
    """Whether *address* is one host on the public Internet."""
    address = carried(address)
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    return (
        address.scope_id is None
        and address in _PUBLIC_V6
        and not any(address in network for network in _NOT_PUBLIC_V6)
        # ISATAP (RFC 5214): the last 32 bits are an IPv4 address.
        and (int(address) >> 32) & 0xFDFFFFFF != 0x5EFE
    )


def permitted(address: Address, allowed: Iterable[Network]) -> bool:
    """Whether requests to *address* are allowed: it is public, or in one of *allowed*."""
    target = carried(address)
    return is_public(address) or any(target in network for network in allowed)
