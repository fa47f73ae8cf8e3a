"""Evidence as files: whole, with sums that fit, and without our tokens where all may see it."""

import hashlib
import io
import subprocess
import zipfile

import pytest

from relaytest.daemons import dossier, shipped
from relaytest.store import pages
from tests.daemons.test_web import TOKEN, found_open, put_on, received, talked
from tests.lab import lab_config

MESSAGE = b"Received: from x\r\nTo: %b\r\n\r\n\xff\x00 text\r\n" % TOKEN.encode()


@pytest.fixture
async def found(connection):
    await put_on(connection)
    await found_open(connection, "S-EXT/R-PLAIN")
    await talked(connection, b"EHLO x\r\n", b"250 mx\r\n", b"RCPT TO:<%b@s>\r\n" % TOKEN.encode())
    await received(connection, message=MESSAGE)
    return await pages.trial_evidence(connection, 1)


@pytest.fixture
def forms(tmp_path):
    return shipped.battery_of(lab_config(tmp_path)).by_number()


def test_the_operator_gets_every_octet(found, forms):
    files = dossier.files_of(found, forms, masked=False)
    assert list(files) == ["README.txt", "session-1.txt", "message-1.eml", "SHA256SUMS"]
    assert files["message-1.eml"] == MESSAGE
    assert TOKEN.encode() in files["session-1.txt"]
    assert b"message-1.eml: came back from 192.0.2.9" in files["README.txt"]
    assert b"form S-EXT/R-PLAIN, forward mailbox" in files["README.txt"]


def test_everybody_gets_it_without_tokens_but_with_the_sum_of_the_original(found, forms):
    files = dossier.files_of(found, forms)
    assert not [name for name, octets in files.items() if TOKEN.encode() in octets.lower()]
    assert files["message-1.eml"] == MESSAGE.replace(TOKEN.encode(), b"(token)")
    assert hashlib.sha256(MESSAGE).hexdigest().encode() in files["README.txt"]


def test_the_sums_fit(found, forms, tmp_path):
    packed = dossier.archive(dossier.files_of(found, forms), "evidence-1")
    with zipfile.ZipFile(io.BytesIO(packed)) as opened:
        assert opened.testzip() is None
        opened.extractall(tmp_path)
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"],
        cwd=tmp_path / "evidence-1",
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stdout.count(b"OK") == 3


def test_the_same_evidence_is_always_the_same_archive(found, forms):
    one, other = (dossier.archive(dossier.files_of(found, forms), "x") for _ in range(2))
    assert one == other


def test_too_much_is_left_out_and_the_sums_still_fit(found, forms, monkeypatch):
    monkeypatch.setattr(dossier, "_MOST", 100)
    files = dossier.files_of(found, forms)
    assert list(files) == ["README.txt", "session-1.txt", "SHA256SUMS"]
    assert b"message-1.eml: came back" in files["README.txt"]
    assert b"message-1.eml" not in files["SHA256SUMS"]
