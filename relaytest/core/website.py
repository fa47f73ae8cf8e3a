"""The public pages: their section of the configuration, and who is asking."""

from collections.abc import Iterable
from datetime import timedelta
from ipaddress import ip_network

from pydantic import Field

from relaytest.core.fields import Duration, Endpoint, NetworkField, Section
from relaytest.core.target import Address, Network, parse_address

_MOST_HOPS = 20  # addresses of one X-Forwarded-For that are looked at


class Web(Section):
    """The public pages."""

    listen: Endpoint = Field("127.0.0.1:8025", description="address:port")
    url: str = Field(
        "",
        pattern=r"^(https?://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._~/-]*)?)?$",
        description="of the pages, for links in mail, such as https://relays.example.net",
    )
    proxies: list[NetworkField] = Field(
        [], description="of our own reverse proxies; only their X-Forwarded-For is believed"
    )
    client_requests: int = Field(
        20, ge=1, description="removal requests and name look-ups of one /32 or /64 in an hour"
    )
    target_requests: int = Field(10, ge=1, description="removal requests for one server in an hour")
    requests: int = Field(5000, ge=1, description="removal requests and name look-ups in an hour")
    unsolved_delay: Duration = Field(
        timedelta(minutes=10),
        description="until the test begins, if limits are near and no puzzle was solved",
    )


def client_of(peer: str, forwarded: str, proxies: Iterable[Network]) -> Address | None:
    """Return who asks: the peer, or whom the last proxy that is not our own has seen.

    Args:
        peer: Address of the connection.
        forwarded: All of X-Forwarded-For; the right-most was added last. Anybody can send one, so
            each is believed only if one of our own proxies wrote it.
        proxies: Our own.

    >>> client_of("127.0.0.1", "6.6.6.6, 11.0.0.1", [ip_network("127.0.0.0/8")])
    IPv4Address('11.0.0.1')
    >>> client_of("11.0.0.9", "6.6.6.6", [ip_network("127.0.0.0/8")])
    IPv4Address('11.0.0.9')
    """
    ours = tuple(proxies)
    client: Address | None = None
    for text in (peer, *reversed(forwarded.split(",")[-_MOST_HOPS:])):
        try:
            client = parse_address(text)
        except ValueError:
            return client
        if not any(client in network for network in ours):
            return client
    return client


def one_client(address: Address | None) -> str:
    """Return the network that counts as one client: an IPv6 one has a /64 at least.

    >>> one_client(parse_address("2001:db8::1:2:3:4"))
    '2001:db8::/64'
    """
    if address is None:
        return "unknown"
    return str(address if address.version == 4 else ip_network((address, 64), strict=False))
