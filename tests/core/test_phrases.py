"""Words in replies: what servers really say, and what it must be taken for."""

import pytest

from relaytest.core.phrases import (
    ABOUT_RELAY,
    ABOUT_THE_CLIENT,
    COME_BACK,
    OVER_A_LIMIT,
    WANTS_TLS,
    about_relay,
)

REFUSES_RELAY = {
    "postfix": "5.7.1 <x@sink.example>: Relay access denied",
    "exim": "relay not permitted",
    "sendmail": "5.7.1 <x@sink.example>... Relaying denied",
    "exchange": "5.7.54 SMTP; Unable to relay recipient in non-accepted domain",
    "courier": "513 Relaying denied.",
    "qmail": "sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)",
    "not-our-user": "x@sink.example is not one of our users",
    "not-local-domain": "not local domain",
    "not-a-local-host": "sink.example is not a local host",
    "third-party": "we do not take third-party mail",
    "thirdparty": "ThirdParty mail refused",
    "not-hosted": "recipient domain not hosted here",
    "domain-is-not-accepted": "The domain is not accepted",
    "domain-not-allowed": "domain not allowed",
    "not-permitted": "You are not permitted to send mail outside",
    "not-allowed-to-send": "not allowed to send to that address",
    "authentication": "5.7.1 Authentication required",
    "authenticate-first": "You must authenticate first",
    "auth": "use AUTH first",
}
REFUSES_US = {
    "block-list": "found in a block list",
    "blocklist": "your network is on our blocklist",
    "black-list": "black-list hit",
    "deny-list": "deny list",
    "banlist": "banlist",
    "blocked": "192.0.2.9 blocked",
    "banned": "banned for a day",
    "blacklisted": "blacklisted",
    "dnsbl": "DNSBL hit",
    "rbl": "refused by RBL",
    "spamhaus": "see https://www.spamhaus.example/",
    "spamcop": "SpamCop",
    "barracuda": "Barracuda Reputation",
    "sorbs": "listed by SORBS",
    "reputation": "poor reputation",
    "your-ip": "your IP is refused",
    "your-host": "I do not like your host",
    "your-address": "your address is refused",
    "client-host": "Client host rejected",
    "go-away": "go away",
    "helo": "Helo command rejected: need a name",
    "helo-short": "HELO rejected",
    "invalid-helo": "invalid HELO",
    "dynamic-ip": "dynamic IP",
    "ptr": "no PTR record",
    "reverse-dns": "no reverse DNS",
}
ASKS_TO_COME_BACK = {
    "greylisted": "Greylisted",
    "graylisting": "4.2.0 graylisting in action",
    "grey-list": "grey-list",
    "try-again": "Please try again",
    "come-back": "come back soon",
    "retry": "retry in a while",
    "later": "4.3.2 later please",
    "wait": "please wait",
    "minutes": "in 5 minutes",
    "seconds": "in 300 seconds",
}
ASKS_FOR_TLS = {
    "starttls": "5.7.0 Must issue a STARTTLS command first",
    "tls": "TLS required",
    "encryption": "needs an encrypted connection",
}


def of(texts):
    """Parametrize by a name for each text."""
    return pytest.mark.parametrize("text", texts.values(), ids=texts)


@of(REFUSES_RELAY)
def test_these_words_are_about_relay(text):
    assert ABOUT_RELAY.search(text)


@of(REFUSES_RELAY)
def test_words_about_relay_do_not_ask_to_come_back(text):
    assert not COME_BACK.search(text)


@of(REFUSES_RELAY)
def test_words_about_relay_are_so_outside_of_names_too(text):
    assert about_relay(text)


@pytest.mark.parametrize(
    "text",
    [
        "<relay-probe.example[192.0.2.9]>: Client host rejected: Access denied",
        "blocked using relays.example",
        "<x@relay.example>: mailbox busy",
        "x@relay.example is busy",
    ],
    ids=["our-name", "blocklist", "path", "address"],
)
def test_a_name_with_relay_in_it_is_not_about_relay(text):
    assert not about_relay(text)


@of(REFUSES_US)
def test_these_words_are_about_the_client(text):
    assert ABOUT_THE_CLIENT.search(text)


@of(REFUSES_US)
def test_words_about_the_client_are_not_about_relay(text):
    assert not ABOUT_RELAY.search(text)


@of(ASKS_TO_COME_BACK)
def test_these_words_ask_to_come_back(text):
    assert COME_BACK.search(text)


@pytest.mark.parametrize(
    "text",
    [
        "4.7.1 Relaying temporarily denied",
        "4.7.1 Relay check: temp error in the policy server",
        "4.4.3 Sender could not be authenticated (SPF temperror)",
    ],
    ids=["temporarily", "temp-error", "spf"],
)
def test_a_trouble_of_this_moment_asks_to_come_back_though_it_speaks_of_relay(text):
    assert about_relay(text)
    assert COME_BACK.search(text)


@pytest.mark.parametrize(
    "text",
    [
        "4.7.1 Error: too many recipients from 192.0.2.9",
        "4.5.3 Too much mail",
        "4.7.0 Rate limit exceeded",
        "4.2.2 Quota",
        "4.4.5 Throttled",
    ],
    ids=["too-many", "too-much", "rate", "quota", "throttled"],
)
def test_these_words_are_of_a_limit(text):
    assert OVER_A_LIMIT.search(text)


@of(ASKS_TO_COME_BACK)
def test_words_of_greylisting_are_not_about_relay(text):
    assert not ABOUT_RELAY.search(text)


@of(ASKS_FOR_TLS)
def test_these_words_ask_for_tls(text):
    assert WANTS_TLS.search(text)


@pytest.mark.parametrize(
    "text",
    [
        "5.1.1 User unknown",
        "5.1.2 Host not found",
        "5.7.1 Access denied",
        "2.1.5 Ok",
        "5.5.2 Syntax error",
        "",
    ],
    ids=["user-unknown", "host-not-found", "access-denied", "ok", "syntax", "empty"],
)
@pytest.mark.parametrize(
    "pattern",
    [ABOUT_RELAY, ABOUT_THE_CLIENT, COME_BACK, OVER_A_LIMIT, WANTS_TLS],
    ids=["relay", "client", "come-back", "limit", "tls"],
)
def test_plain_words_mean_nothing_special(pattern, text):
    assert not pattern.search(text)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (ABOUT_RELAY, "the author"),
        (ABOUT_THE_CLIENT, "garblers"),
        (ABOUT_THE_CLIENT, "cryptr"),
        (COME_BACK, "awaits"),
        (WANTS_TLS, "subtlsy"),
    ],
    ids=["auth-in-author", "rbl-in-garblers", "ptr-in-cryptr", "wait-in-awaits", "tls-inside"],
)
def test_a_short_word_counts_only_as_a_whole_one(pattern, text):
    assert not pattern.search(text)
