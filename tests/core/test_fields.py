"""What the sections of the configuration are made of."""

from datetime import timedelta
from ipaddress import ip_network

import pytest
from pydantic import ValidationError

from relaytest.core.fields import Duration, Endpoint, HostName, NetworkField, Section


class Sample(Section):
    """One option of each kind."""

    wait: Duration = timedelta(0)
    name: HostName = "a.example"
    place: Endpoint = "127.0.0.1:25"
    network: NetworkField = "192.0.2.0/24"


def test_each_kind_is_read():
    sample = Sample(wait="5min", name="MX.Example.", network="10.0.0.0/8")
    assert sample.wait == timedelta(minutes=5)
    assert sample.name == "mx.example"
    assert sample.network == ip_network("10.0.0.0/8")


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("wait", "soon", "must be a duration"),
        ("name", "-", "must be a full domain name"),
        ("place", "25", "must be address:port"),
        ("network", "10.0.0.1/8", 'must be a network such as "192.0.2.0/24"'),
        ("other", 1, "Extra inputs are not permitted"),
    ],
)
def test_a_bad_value_is_told(key, value, told):
    with pytest.raises(ValidationError, match=told):
        Sample(**{key: value})


@pytest.mark.parametrize("key", Sample.model_fields)
def test_a_section_does_not_change(key):
    with pytest.raises(ValidationError, match="frozen"):
        setattr(Sample(), key, "b.example")
