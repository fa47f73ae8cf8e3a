"""What the sink needs for TLS."""

import ssl

import pytest

from relaytest.core.errors import ConfigError
from relaytest.net.server_tls import server_tls
from tests.net.hostile import CERTIFICATE


def test_a_certificate_with_its_key_serves_old_relays_too():
    context = server_tls(str(CERTIFICATE))
    assert context.minimum_version is ssl.TLSVersion.MINIMUM_SUPPORTED


@pytest.mark.parametrize("content", [None, "", "no certificate"], ids=["none", "empty", "text"])
def test_what_is_no_certificate_is_named_with_its_option(tmp_path, content):
    file = tmp_path / "sink.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=rf"sink\.certificate is '{file}'.*PEM"):
        server_tls(str(file))
