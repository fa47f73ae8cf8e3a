"""What words in replies mean. Codes alone do not tell a refusal of relay from a refusal of us.

Each pattern is a habit of servers, not a standard: a match is a hint that is only believed
together with the code and with the answer to the control recipient.
"""

import re


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


ABOUT_RELAY = _any(
    r"relay",  # Postfix, Exim, sendmail, Exchange, Courier
    r"rcpthosts",  # qmail
    r"not (one of our|a local|local) (user|domain|host|address)",
    r"third.?party",
    r"domain (is )?not (allowed|hosted|local|accepted)",
    r"not (allowed|permitted) to send",
    r"authenticat|\bauth\b",  # "authenticate first": closed to strangers (RFC 6409 section 4.3)
)

_NAMES = re.compile(r"<[^>]*>|\S*@\S*|[\w-]+(\.[\w-]+)+")


def about_relay(text: str) -> bool:
    """Whether ABOUT_RELAY matches outside of names: ours, or a blocklist's, may have "relay" in it.

    >>> about_relay("<relay-probe.example[192.0.2.9]>: Client host rejected: Access denied")
    False
    """
    return ABOUT_RELAY.search(_NAMES.sub("", text)) is not None


_ON_A_LIST = (
    r"\b(black|block|deny|ban)[ -]?list|\b(blocked|banned|blacklisted)\b",
    r"dnsbl|\brbl\b|spamhaus|spamcop|barracuda|sorbs|reputation",
)
ON_A_LIST = _any(*_ON_A_LIST)
ABOUT_THE_CLIENT = _any(
    *_ON_A_LIST,
    r"your (ip|host|address)|client host|go away",
    r"helo (command )?rejected|invalid helo",
    r"dynamic ip|\bptr\b|reverse dns",
)

# Postfix's postscreen to a client on its denylist, with 550 or 521; with 450 it means later.
NOT_FOR_THIS_ONE = _any(r"service currently unavailable")

COME_BACK = _any(
    r"gr[ae]y.?list|try again|come back|retry|later|\bwait\b|minutes|seconds",
    r"temporar|temp.?error|\b(spf|dkim|dmarc)\b",
)

OVER_A_LIMIT = _any(r"too (many|much)|\b(rate|quota)\b|\blimits?\b|exceed|throttl")

WANTS_TLS = _any(r"starttls|\btls\b|encrypt")

WANTS_USER = _any(r"\buser\b.*\bpass")  # FTP
