"""What the sections of the configuration are made of: the base of all, and the kinds of values."""

from datetime import timedelta
from ipaddress import ip_network
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from relaytest.core.dsn import parse_dsn
from relaytest.core.target import Network
from relaytest.core.values import parse_duration, parse_endpoint, parse_host_name


def parse_option_network(value: object) -> Network:
    """Read a network of the configuration."""
    try:
        return ip_network(str(value), strict=True)
    except ValueError as error:
        raise ValueError(f'must be a network such as "192.0.2.0/24": {error}') from None


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
HostName = Annotated[str, BeforeValidator(parse_host_name)]
Endpoint = Annotated[str, BeforeValidator(parse_endpoint)]
Dsn = Annotated[str, BeforeValidator(parse_dsn)]
NetworkField = Annotated[Any, BeforeValidator(parse_option_network)]


class Section(BaseModel):
    """A section refuses keys that it does not know and cannot be changed after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
