"""Proof of work for busy hours: a puzzle that a browser solves in seconds (ALTCHA, version 2).

It is signed, for one address only, good for a while and good once. The time is the database's:
the library would compare with this host's clock what another may have stamped.
"""

import hashlib
import hmac
import json
import secrets
from datetime import timedelta

import altcha

from relaytest.core.target import Address
from relaytest.store import allowances, puzzles
from relaytest.store.database import Connection

_ALGORITHM = "PBKDF2/SHA-256"  # what every browser has
_COST = 5000  # iterations of one guess: a millisecond
GUESSES = (500, 2000)  # the right one is somewhere between
GOOD_FOR = timedelta(minutes=10)
_PURPOSE = b"relaytest puzzle 1"  # the key has other uses


async def challenge(connection: Connection, address: Address) -> str:
    """Return a new puzzle for whoever asks for the removal of an address, as JSON."""
    key, now = await puzzles.key_and_time(connection)
    low, high = GUESSES
    made = altcha.create_challenge(
        _ALGORITHM,
        _COST,
        counter=low + secrets.randbelow(high - low),
        data={"for": str(address), "until": int((now + GOOD_FOR).timestamp())},
        hmac_secret=_secret(key, b"challenge"),
        hmac_key_secret=_secret(key, b"solution"),
    )
    return json.dumps(made.to_dict())


async def is_solved(connection: Connection, text: str, address: Address) -> bool:
    """Whether a text is the solution of a puzzle of ours for an address; each counts once."""
    try:
        payload = altcha.Payload.from_base64(text)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    key, now = await puzzles.key_and_time(connection)
    result = altcha.verify_solution(
        payload, _secret(key, b"challenge"), hmac_key_secret=_secret(key, b"solution")
    )
    parameters = payload.challenge.parameters
    if not result.verified or not parameters.data:
        return False
    if parameters.data["for"] != str(address) or parameters.data["until"] < now.timestamp():
        return False
    once = await allowances.use(connection, f"puzzle {parameters.nonce}", 1, 2 * GOOD_FOR)
    return once is None


def _secret(key: bytes, use: bytes) -> bytes:
    return hmac.digest(key, _PURPOSE + b" " + use, hashlib.sha256)
