"""Signatures as minisign itself verifies them."""

import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from relaytest.core.errors import ConfigError
from relaytest.core.minisign import Signer
from tests.mta.packages import require


def pem(key, encryption=None) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


KEY = pem(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
COMMENT = "relays.example at 2026-01-01T00:00:00+00:00"


def verify(folder, content: bytes, signature: str, key: str) -> subprocess.CompletedProcess[str]:
    """Ask minisign."""
    program = require("minisign")
    for name, text in (("list", content), ("list.minisig", signature), ("key.pub", key)):
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    command = [str(program.path), "-V", "-m", str(folder / "list"), "-p", str(folder / "key.pub")]
    return subprocess.run(
        command, env=program.environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("content", [b"", b"a  b\n", bytes(100_000)])
def test_minisign_finds_a_signature_right_and_shows_its_comment(tmp_path, content):
    signer = Signer(KEY)
    done = verify(tmp_path, content, signer.sign(content, COMMENT), signer.public_key)
    assert (done.returncode, COMMENT in done.stdout) == (0, True), done


@pytest.mark.parametrize("what", ["content", "comment", "key"])
def test_minisign_finds_a_signature_wrong_that_does_not_fit(tmp_path, what):
    signer = Signer(KEY)
    signature, key = signer.sign(b"x", COMMENT), signer.public_key
    if what == "comment":
        signature = signature.replace("2026", "2027")
    if what == "key":
        key = Signer(pem(ed25519.Ed25519PrivateKey.generate())).public_key
    content = b"y" if what == "content" else b"x"
    assert verify(tmp_path, content, signature, key).returncode == 1


WRONG = {
    "nothing": (b"", "no private key"),
    "another-kind": (pem(ec.generate_private_key(ec.SECP256R1())), "not one of Ed25519"),
    "with-a-password": (
        pem(ed25519.Ed25519PrivateKey.generate(), BestAvailableEncryption(b"x")),
        "no private key: Password was not given",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_key_is_refused(name):
    octets, said = WRONG[name]
    with pytest.raises(ConfigError, match=said):
        Signer(octets)
