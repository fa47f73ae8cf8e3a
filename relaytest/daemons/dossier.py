"""The evidence of one trial as files: for the archive that anybody may load, and for the operator.

What is public has our tokens masked, for who knows a token can forge a proof; the sums of the
octets as they came are told beside it, so that the original can be shown to be the same.
"""

import hashlib
import io
import itertools
import zipfile
from collections.abc import Mapping

from relaytest.core.probe import Form
from relaytest.core.token import mask_octets
from relaytest.store.pages import TrialEvidence

_MOST = 32 << 20  # octets of one archive before it is packed


def files_of(
    evidence: TrialEvidence, forms: Mapping[int, Form], *, masked: bool = True
) -> dict[str, bytes]:
    """Return name and content of each file; the last one, SHA256SUMS, is for sha256sum --check.

    Args:
        evidence: Of one trial.
        forms: By number.
        masked: Without our tokens.
    """
    show = mask_octets if masked else bytes
    files: dict[str, bytes] = {}
    index = [_about(evidence, masked=masked)]
    for number, (session, transcript) in enumerate(evidence.sessions, 1):
        name = f"session-{number}.txt"
        files[name] = show(transcript.as_text().encode() + b"\n")
        index.append(
            f"{name}: {session['purpose']}, begun {session['started_at']:%Y-%m-%d %H:%M:%S} UTC"
            f" from {session['source'] or 'no address'}, ended: {session['ended']}\n"
        )
    for number, receipt in enumerate(evidence.receipts, 1):
        name = f"message-{number}.eml"
        files[name] = show(receipt["message"])
        digest = hashlib.sha256(receipt["message"]).hexdigest()
        form = forms.get(receipt["form"])
        index.append(
            f"{name}: came back from {receipt['peer']}, {receipt['received_at']:%Y-%m-%d %H:%M:%S}"
            f" UTC, form {form.id if form else receipt['form']}, {receipt['mailbox']} mailbox,"
            f" {receipt['size']} octets; SHA-256 as it came: {digest}\n"
        )
    files = {"README.txt": "".join(index).encode(), **_bounded(files)}
    sums = "".join(
        f"{hashlib.sha256(octets).hexdigest()}  {name}\n" for name, octets in files.items()
    )
    return {**files, "SHA256SUMS": sums.encode()}


def archive(files: Mapping[str, bytes], folder: str) -> bytes:
    """Return a ZIP file with one folder; of the same files always the same octets."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name, octets in files.items():
            target.writestr(zipfile.ZipInfo(f"{folder}/{name}"), octets, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def _about(evidence: TrialEvidence, *, masked: bool) -> str:
    trial = evidence.trial
    return (
        f"Evidence {trial['id']}: {trial['address']} port {trial['port']}, tested "
        f"{trial['started_at']:%Y-%m-%d %H:%M:%S} UTC in {trial['visits']} visits.\n"
        "In the sessions C: is what we said, S: what the server said, with seconds in front.\n"
        + ("Our token mailboxes are masked as (token).\n\n" if masked else "\n")
    )


def _bounded(files: dict[str, bytes]) -> dict[str, bytes]:
    """Leave out what is too much, from the first file on that does not fit."""
    whole = itertools.accumulate(len(octets) for octets in files.values())
    return {
        name: octets
        for (name, octets), size in zip(files.items(), whole, strict=True)
        if size <= _MOST
    }
