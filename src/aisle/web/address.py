"""The client's address, which comes from a proxy only where the proxy is trusted by setting."""

from __future__ import annotations

import ipaddress

from fastapi import Request

from aisle.errors import UsageError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(text: str) -> tuple[Network, ...]:
    """The networks of a setting: addresses or CIDR ranges, separated by commas. Raises UsageError."""
    try:
        return tuple(ipaddress.ip_network(part.strip(), strict=False) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise UsageError(f"TRUSTED_PROXIES: {error}", where="settings") from None


def client_address(request: Request, trusted: tuple[Network, ...]) -> str:
    """Who asks: the peer, or, where the peer is a trusted proxy, the last address that no trusted proxy wrote.

    `X-Forwarded-For` grows to the right, so everything left of the first untrusted address may be invented.
    """
    address = request.client.host if request.client else ""
    chain = ",".join(request.headers.getlist("x-forwarded-for")).split(",")
    for hop in reversed([hop.strip() for hop in chain if hop.strip()]):
        if not _is_in(address, trusted) or _parsed(hop) is None:
            break
        address = hop
    return address


def customer(address: str) -> str:
    """One customer of a provider: an IPv4 address, or an IPv6 /64, within which anybody can have any address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 6:
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    # A socket that listens on IPv6 shows IPv4 peers as ::ffff:192.0.2.1.
    return getattr(parsed, "ipv4_mapped", None) or parsed


def _is_in(address: str, trusted: tuple[Network, ...]) -> bool:
    parsed = _parsed(address)
    return parsed is not None and any(parsed in network for network in trusted)


def is_encrypted(request: Request, trusted: tuple[Network, ...]) -> bool:
    """Whether the client speaks TLS: to us, or to a trusted proxy, which says so in `X-Forwarded-Proto`."""
    peer = request.client.host if request.client else ""
    said = request.headers.get("x-forwarded-proto", "") if _is_in(peer, trusted) else ""
    return (said or request.url.scheme).lower() == "https"
