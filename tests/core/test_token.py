"""Tokens: nobody can guess, bend or respell one, and none is shown to the public."""

import base64
import string
from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relaytest.core.token import LENGTH, Mailbox, Token, _letters, issue, mask, verify

KEY = b"k" * 32
OTHER = b"o" * 32
TOKEN = Token(Mailbox.FORWARD, 257, 7)
TEXT = "aeaqcaaaaaaaos7jixafov4api"
ALPHABET = string.ascii_lowercase + "234567"
LAST_TRIAL = 2**40 - 1

tokens = st.builds(
    Token,
    mailbox=st.sampled_from(Mailbox),
    form=st.integers(0, 65535),
    trial=st.integers(1, LAST_TRIAL),
)
thorough = settings(derandomize=True, deadline=None, max_examples=500)


def altered(text, place, letter):
    return text[:place] + letter + text[place + 1 :]


def test_a_token_is_spelt_the_same_for_ever():
    """Tokens of mail that is still under way must verify after an upgrade."""
    assert issue(KEY, TOKEN) == TEXT


def test_each_mailbox_has_a_number_for_ever():
    assert {one.name: one.value for one in Mailbox} == {"FORWARD": 1, "REVERSE": 2, "SELF": 3}


@given(tokens)
@thorough
def test_what_was_issued_is_verified(token):
    assert verify([KEY], issue(KEY, token)) == token


@pytest.mark.parametrize(
    "token",
    [Token(*row) for row in product(Mailbox, (0, 257, 65535), (1, 2**32 - 1, 2**32, LAST_TRIAL))],
    ids=lambda token: f"{token.mailbox.name}-{token.form}-{token.trial}",
)
def test_the_outermost_tokens_are_verified_too(token):
    assert verify([KEY], issue(KEY, token)) == token


@given(tokens)
@thorough
def test_a_token_is_26_lower_case_base32_letters(token):
    text = issue(KEY, token)
    assert len(text) == LENGTH == 26
    assert set(text) <= set(ALPHABET)


@given(tokens, tokens)
@thorough
def test_different_tokens_are_spelt_differently(one, other):
    assert (issue(KEY, one) == issue(KEY, other)) is (one == other)


@given(tokens, st.randoms(use_true_random=False))
@thorough
def test_letter_case_does_not_matter(token, chance):
    text = "".join(chance.choice([one, one.upper()]) for one in issue(KEY, token))
    assert verify([KEY], text) == token


@pytest.mark.parametrize("place", range(LENGTH))
def test_any_changed_letter_is_refused(place):
    others = [letter for letter in ALPHABET if letter != TEXT[place]]
    assert [verify([KEY], altered(TEXT, place, letter)) for letter in others] == [None] * 31


@given(tokens, st.integers(0, LENGTH - 1), st.characters())
@example(TOKEN, 2, "\0")
@thorough
def test_any_character_in_place_of_a_letter_is_refused(token, place, character):
    text = issue(KEY, token)
    same = character in {text[place], text[place].upper()}
    assert verify([KEY], altered(text, place, character)) == (token if same else None)


def test_a_letter_that_lowers_to_an_ascii_one_is_refused():
    """U+212A KELVIN SIGN is no spelling of k, though str.lower() makes one of it."""
    token = next(
        token
        for token in (Token(Mailbox.FORWARD, 257, trial) for trial in range(1, 100))
        if "k" in issue(KEY, token)
    )
    assert verify([KEY], issue(KEY, token).replace("k", "\u212a")) is None


def test_the_spare_bits_of_the_last_letter_have_one_spelling():
    octets = base64.b32decode(TEXT.upper() + "======")
    spellings = [
        TEXT[:-1] + letter
        for letter in ALPHABET
        if base64.b32decode((TEXT[:-1] + letter).upper() + "======") == octets
    ]
    assert len(spellings) == 4  # two bits to spare
    assert [text for text in spellings if verify([KEY], text)] == [TEXT]


@pytest.mark.parametrize(
    "text",
    [
        "",
        TEXT[:-1],
        TEXT[1:],
        TEXT + "a",
        "a" + TEXT,
        TEXT + TEXT,
        TEXT + "=",
        TEXT + "======",
        TEXT + "\n",
        " " + TEXT,
        f'"{TEXT}"',
        f"{TEXT}+tag",
        "a" * LENGTH,
        "postmaster",
    ],
    ids=[
        "empty",
        "last-letter-gone",
        "first-letter-gone",
        "one-more",
        "one-before",
        "twice",
        "padded",
        "fully-padded",
        "line-end",
        "blank",
        "quoted",
        "tagged",
        "right-shape",
        "postmaster",
    ],
)
def test_what_is_no_token_is_refused(text):
    assert verify([KEY], text) is None


@given(st.text(max_size=40) | st.text(ALPHABET, min_size=LENGTH, max_size=LENGTH))
@thorough
def test_any_text_is_refused_without_an_error(text):
    assert verify([KEY], text) is None


def test_a_token_of_another_key_is_refused():
    assert verify([KEY], issue(OTHER, TOKEN)) is None


def test_no_key_verifies_nothing():
    assert verify([], TEXT) is None


@pytest.mark.parametrize("keys", [[KEY, OTHER], [OTHER, KEY]], ids=["in-use", "replaced"])
def test_a_token_of_any_of_our_keys_is_verified(keys):
    assert verify(keys, TEXT) == TOKEN


def test_the_keys_may_be_an_iterator():
    assert verify(iter([OTHER, KEY]), TEXT) == TOKEN


@pytest.mark.parametrize("trial", [0, -1, LAST_TRIAL + 1])
def test_a_trial_that_does_not_fit_is_not_issued(trial):
    with pytest.raises(ValueError, match=str(trial)):
        issue(KEY, Token(Mailbox.FORWARD, 257, trial))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"RCPT TO:<{TEXT}@sink.example>", "RCPT TO:<(token)@sink.example>"),
        (f"RCPT TO:<{TEXT.upper()}@sink.example>", "RCPT TO:<(token)@sink.example>"),
        (f"<{TEXT}%sink.example@mx.example>", "<(token)%sink.example@mx.example>"),
        (f"<sink.example!{TEXT}>", "<sink.example!(token)>"),
        (f'<"{TEXT}@sink.example">', '<"(token)@sink.example">'),
        (f"<{TEXT}> <{TEXT}>", "<(token)> <(token)>"),
        (f"SRS0=abcd=xy=sink.example={TEXT}@mx", "SRS0=abcd=xy=sink.example=(token)@mx"),
        (f"list-{TEXT}=sink.example@mx", "list-(token)=sink.example@mx"),
        (TEXT, "(token)"),
    ],
    ids=["plain", "upper", "percent", "bang", "quoted", "two", "srs", "verp", "alone"],
)
def test_a_token_is_hidden_in_every_form_of_the_battery(text, shown):
    assert mask(text) == shown


@given(tokens, st.text(max_size=30), st.text(max_size=30), st.booleans())
@example(TOKEN, "for ", "; Mon", False)
@thorough
def test_a_token_is_hidden_between_any_other_text(token, before, after, upper):
    text = issue(KEY, token).upper() if upper else issue(KEY, token)
    assert text not in mask(f"{before} {text} {after}")


@pytest.mark.parametrize(
    "text",
    [f"\\x1b{TEXT}@sink", f"=3D{TEXT}@sink", f"%3C{TEXT}%3E", f"to{TEXT}", f"{TEXT}x"],
    ids=["after-an-escape", "quoted-printable", "percent-encoded", "letters-before", "after"],
)
def test_a_token_is_hidden_though_letters_touch_it(text):
    assert TEXT not in mask(text)


@pytest.mark.parametrize(
    "text",
    ["250 2.1.5 Ok", "mx.shop.example ESMTP Postfix", "a" * 25, "", "0123456789" * 3],
    ids=["reply", "greeting", "25-letters", "empty", "digits"],
)
def test_what_cannot_be_a_token_is_shown(text):
    assert mask(text) == text


@given(st.binary(min_size=16, max_size=16))
def test_the_letters_are_base32(octets):
    expected = base64.b32encode(octets).decode().rstrip("=").lower()
    assert _letters(octets) == expected
