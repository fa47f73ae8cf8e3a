"""`relaytest advice`."""

import json

import pytest

from relaytest.daemons import shipped
from tests.cli.program import relaytest


@pytest.mark.parametrize(
    "software", ["postfix", "Postfix", "220 mx.example ESMTP Postfix (Debian/GNU)"]
)
def test_advice_is_found_by_name_and_by_greeting(software):
    done = relaytest("advice", software)
    assert done.returncode == 0
    assert done.stdout.startswith("Postfix\n  * smtpd_relay_restrictions = ")


def test_without_a_name_all_of_it_is_printed():
    done = relaytest("advice", "--json")
    assert [one["name"] for one in json.loads(done.stdout)] == [
        one.name for one in shipped.advice().products
    ]


def test_unknown_software_is_told_with_what_is_known():
    done = relaytest("advice", "nonesuch")
    assert done.returncode == 64
    assert "no advice for 'nonesuch'" in " ".join(done.stderr.split())
