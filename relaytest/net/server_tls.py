"""TLS where we are the server: at the sink, for relays that hand on mail inside TLS only."""

import ssl

from relaytest.core.errors import ConfigError


def server_tls(file: str) -> ssl.SSLContext:
    """Return what a server needs, for whoever comes: relays may be old (RFC 7435).

    Args:
        file: PEM, with the private key and the chain.

    Raises:
        ConfigError: There is no such file, or it holds no key with its certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("ALL:@SECLEVEL=0")
    try:
        context.load_cert_chain(file)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            f"sink.certificate is {file!r}: {error}; it must be a PEM file with the private key "
            "and the certificate chain, readable for the sink"
        ) from None
    return context
