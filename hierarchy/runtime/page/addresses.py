"""The addresses at which others reach this machine: 0.0.0.0 is none that a phone can open."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys

if sys.platform == "linux":
    import fcntl

EVERYWHERE = {"0.0.0.0", "::"}  # noqa: S104, compared with and not bound to
SIOCGIFADDR = 0x8915  # netdevice(7): an interface's IPv4 address
# Of a documentation network (RFC 5737): nothing is sent there, only the way to it is looked up.
ELSEWHERE = ("192.0.2.1", 9)


def page_urls(host: str, port: int) -> list[str]:
    """Return the URLs of a page that listens at a host: those of all interfaces where it listens at all of them."""
    hosts = lan_addresses() or ["127.0.0.1"] if host in EVERYWHERE else [host]
    return [f"http://[{one}]:{port}" if ":" in one else f"http://{one}:{port}" for one in hosts]


def lan_addresses() -> list[str]:
    """Return this machine's IPv4 addresses, without loopback; the one that leads elsewhere first. May be empty."""
    return list(dict.fromkeys([*_leading_elsewhere(), *_of_interfaces()]))


def _leading_elsewhere() -> list[str]:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(ELSEWHERE)
        return [str(probe.getsockname()[0])]
    return []


def _of_interfaces() -> list[str]:
    if sys.platform != "linux":
        return []
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # one without an address
                about = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                found.append(socket.inet_ntoa(about[20:24]))
    return [one for one in found if not one.startswith("127.")]
