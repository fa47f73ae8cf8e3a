"""Local parts that pretend to be tokens."""

from hypothesis import strategies as st

from relaytest.core.token import LENGTH, Mailbox, Token, issue, mask, verify
from tests.fuzz.target import Target

_KEY, _OLD, _STRANGE = b"k" * 32, b"o" * 32, b"s" * 32
_TOKENS = st.builds(
    Token, st.sampled_from(Mailbox), st.integers(0, 65535), st.integers(1, (1 << 40) - 1)
)
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_LETTERS = st.text(_ALPHABET + _ALPHABET.upper() + "0189=@ \n\u0130\u017f\u212a", max_size=30)
_CHANGES = st.lists(
    st.tuples(st.integers(0, LENGTH - 1), st.sampled_from(_ALPHABET + "=\u017f\u212aK ")),
    max_size=3,
)

INPUTS = st.tuples(_TOKENS, _CHANGES, st.text(max_size=40) | _LETTERS)


def check(value: tuple[Token, list[tuple[int, str]], str]) -> None:
    """Only what was issued is taken, in one spelling but for letter case; and it can be hidden."""
    token, changes, other = value
    text = issue(_KEY, token)
    assert verify([_OLD, _KEY], text) == verify([_KEY], text.upper()) == token
    assert verify([_STRANGE], text) is None
    changed = text
    for place, letter in changes:
        changed = changed[:place] + letter + changed[place + 1 :]
    if changed.lower() != text or not changed.isascii():
        assert verify([_KEY, _OLD], changed) is None
    assert verify([_KEY], other) is None
    assert verify([_KEY], text + other) is (None if other else token) or not other
    for shown in (mask(other + text), mask(text.upper() + other), mask(f"={text}\n{other}")):
        assert text not in shown.lower()


TARGET = Target("only what was issued verifies", INPUTS, check)
