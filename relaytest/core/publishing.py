"""How the zone is published: one section of the configuration."""

from datetime import timedelta

from pydantic import Field, field_validator

from relaytest.core.fields import Duration, HostName, Section
from relaytest.core.values import parse_endpoint


class Publish(Section):
    """The DNS zone."""

    zone: HostName = Field("relays.example", description="name of the list")
    by_version: bool = Field(
        default=False, description="also v4.ZONE and v6.ZONE, for clients that want one IP version"
    )
    combined: bool = Field(
        default=False, description="also all.ZONE: relays and exits in one (listing.outputs)"
    )
    zone_file: bool = Field(default=False, description="also ZONE.zone, for NSD, Knot or BIND")
    directory: str = Field("", description="where the zone files go; empty: --data/zone")
    ttl: Duration = Field(
        timedelta(minutes=5), ge=timedelta(seconds=1), description="of entries and negative answers"
    )
    nameservers: list[HostName] = Field([], description="NS names of the zone; empty: ns.ZONE")
    hostmaster: HostName = Field("hostmaster.invalid", description="SOA mailbox, @ as a dot")
    lookup_url: str = Field(
        "", max_length=150, description="page that explains an entry; the address is appended"
    )
    expire_after: Duration = Field(
        timedelta(days=7), description="rbldnsd refuses files that were not renewed for so long"
    )
    debounce: Duration = Field(timedelta(seconds=1), description="gather changes for so long")
    largest_change: float = Field(
        0.5, gt=0, le=1, description="share of the entries that may change at once; 1: all"
    )
    server: str = Field(
        "", description="address:port of the DNS server to check after each publication"
    )
    signing_key: str = Field(
        "", description="file with an Ed25519 key (PEM) to sign the checksums; empty: not signed"
    )
    pidfile: str = Field(
        "", description="of the DNS server to signal (SIGHUP); empty: it polls the files"
    )

    @field_validator("server")
    @classmethod
    def _server(cls, value: str) -> str:
        return parse_endpoint(value) if value else ""

    @field_validator("lookup_url")
    @classmethod
    def _plain(cls, value: str) -> str:
        if not value.isascii() or any(c in value for c in '"\\$ ') or not value.isprintable():
            raise ValueError("must be plain ASCII without blank, quote, backslash and dollar")
        return value
