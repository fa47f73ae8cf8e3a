"""The section of the configuration that says how the zone is published."""

import pytest
from pydantic import ValidationError

from relaytest.core.publishing import Publish


def test_all_of_it_has_a_default():
    assert Publish().zone == "relays.example"


@pytest.mark.parametrize("url", ["https://list.example/?a=", "", "x" * 150])
def test_what_stands_in_a_txt_record_may_be_a_page(url):
    assert Publish(lookup_url=url).lookup_url == url


@pytest.mark.parametrize("url", ['a"', "a b", "a$", "a\\", "ä", "x" * 151])
def test_what_would_break_a_zone_file_is_refused(url):
    with pytest.raises(ValidationError):
        Publish(lookup_url=url)
