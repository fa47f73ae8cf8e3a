"""Signatures for mirrors, in the format of minisign (https://jedisct1.github.io/minisign/)."""

import base64
import hashlib

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from relaytest.core.errors import ConfigError

_KEY, _HASHED = b"Ed", b"ED"  # what follows: a key; a signature of the content's BLAKE2b


class Signer:
    """Signs with one Ed25519 key (RFC 8032)."""

    def __init__(self, pem: bytes) -> None:
        """Take a private key as `openssl genpkey -algorithm ed25519` writes it.

        Raises:
            ConfigError: It is none, or needs a password.
        """
        try:
            key = load_pem_private_key(pem, None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConfigError(f"no private key: {error}") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError("the private key is not one of Ed25519")
        self._key = key
        self._public = key.public_key().public_bytes_raw()
        self._id = hashlib.sha256(self._public).digest()[:8]

    @property
    def public_key(self) -> str:
        """The file that mirrors need to verify (`minisign -p`)."""
        return f"untrusted comment: minisign public key\n{_text(_KEY + self._id + self._public)}\n"

    def sign(self, content: bytes, comment: str) -> str:
        """Return the signature file of a content.

        Args:
            content: What is signed.
            comment: One line, signed too; minisign shows it.
        """
        signature = self._key.sign(hashlib.blake2b(content).digest())
        return (
            "untrusted comment: signature by relaytest\n"
            f"{_text(_HASHED + self._id + signature)}\n"
            f"trusted comment: {comment}\n"
            f"{_text(self._key.sign(signature + comment.encode()))}\n"
        )


def _text(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii")
