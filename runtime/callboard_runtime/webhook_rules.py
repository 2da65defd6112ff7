"""What a webhook may be: its events, its secret, its URL, and which addresses are on the public internet."""

from __future__ import annotations

from base64 import b64decode
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

RUN_EVENTS = ("started", "interrupted", "finished", "failed", "cancelled")
HOW_TO_MAKE = "make one with `echo whsec_$(openssl rand -base64 32)`"
_NAT64 = IPv6Network("64:ff9b::/96")
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")


def is_public(address: str) -> bool:
    """Whether an address, with or without an IPv6 zone, is global unicast, and so is an IPv4 address inside it.

    Raises ValueError for what is no address.
    """
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv4Address):
        return _is_global(ip)
    if ip.ipv4_mapped is not None:
        return _is_global(ip.ipv4_mapped)
    if ip in _NAT64:
        return _is_global(IPv4Address(int(ip) & 0xFFFF_FFFF))
    inside = ip.sixtofour
    return _is_global(ip) and ip not in _LOCAL_NAT64 and (inside is None or _is_global(inside))


def _is_global(ip: IPv4Address | IPv6Address) -> bool:
    site_local = isinstance(ip, IPv6Address) and ip.is_site_local
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified or site_local)


def url_problem(url: str, allow_private: bool) -> str | None:
    """What is wrong with a receiver's URL; None if nothing is."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if not host or parts.scheme not in ("http", "https"):
        return "is no URL; its form is https://host/path"
    if parts.username is not None or parts.fragment:
        return "must have no user, password or fragment; a secret of the receiver belongs in the query"
    if allow_private:
        return None
    if parts.scheme == "http":
        return "must be https://; CALLBOARD_WEBHOOKS__ALLOW_PRIVATE=true allows http:// inside your own network"
    private = "names a private address; CALLBOARD_WEBHOOKS__ALLOW_PRIVATE=true allows those"
    return None if _may_be_public(host) else private


def _may_be_public(host: str) -> bool:
    try:
        return is_public(host)
    except ValueError:
        return host != "localhost"  # a name is looked up, and its address checked, at every connection


def is_secret(secret: str) -> bool:
    """Whether a text is a signing secret as Standard Webhooks writes them."""
    prefix, _, encoded = secret.partition("_")
    try:
        return prefix == "whsec" and 24 <= len(b64decode(encoded, validate=True)) <= 64
    except ValueError:
        return False
