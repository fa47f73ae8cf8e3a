"""Who sent a message to us, by Received lines as servers really write them, and forged ones."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaytest.core.origin import NoOriginError, Origin, is_from_inside, origin_of

OURS = [ip_network("192.0.2.0/28"), ip_network("2001:db8:1::/48")]
THEM = "11.22.33.44"

LINES = {
    "postfix": "from helo.example (rdns.example [11.22.33.44]) by mx.ours.example (Postfix) with"
    " ESMTP id 4F2; Mon, 1 Jan 2026 00:00:00 +0000 (UTC)",
    "postfix-unknown": "from [10.9.8.7] (unknown [11.22.33.44])\r\n\tby mx.ours.example (Postfix)"
    " with SMTP id 4F2\r\n\tfor <trap@ours.example>; Mon, 1 Jan 2026 00:00:00 +0000",
    "postfix-ipv6": "from a.example (a.example [IPv6:2600::1]) by mx (Postfix) with ESMTPS id 1; x",
    "postfix-tls": "from a.example (a.example [11.22.33.44])\r\n (using TLSv1.3 with cipher"
    " TLS_AES_256_GCM_SHA384 (256/256 bits))\r\n by mx (Postfix) with ESMTPS id 1; x",
    "exim": "from rdns.example ([11.22.33.44] helo=helo.example) by mx with esmtps"
    " (TLS1.3) (Exim 4.96) (envelope-from <a@b.example>) id 1q-2; x",
    "exim-no-name": "from [11.22.33.44] (helo=[10.1.2.3]) by mx with smtp (Exim 4.96) id 1q-2; x",
    "exim-port": "from rdns.example ([11.22.33.44]:41234 helo=x) by mx with esmtp id 1q-2; x",
    "sendmail": "from helo.example (rdns.example [11.22.33.44]) by mx (8.17.1/8.17.1) with ESMTP"
    " id 4A1; x",
    "sendmail-forged": "from [10.0.0.1] (rdns.example [11.22.33.44] (may be forged)) by mx"
    " (8.17.1/8.17.1) with ESMTP id 4A1; x",
    "qmail": "from unknown (HELO helo.example) (11.22.33.44) by mx.ours.example with SMTP; x",
    "qmail-ident": "from rdns.example (HELO 10.1.2.3) (ident@11.22.33.44) by mx with SMTP; x",
    "exchange": "from rdns.example (11.22.33.44) by EX1.ours.example (192.0.2.3) with Microsoft"
    " SMTP Server (version=TLS1_2, cipher=X) id 15.2.1; x",
    "opensmtpd": "from helo.example (rdns.example [11.22.33.44]) by mx (OpenSMTPD) with ESMTP id 1"
    " for <a@b>; x",
    "haraka": "from helo.example (rdns.example [11.22.33.44]) by mx (Haraka/3.0) with ESMTP id A",
    "by-in-a-comment": "from x (a by b [11.22.33.44]) by mx with SMTP; x",
}


def mail(*lines: str) -> bytes:
    head = "".join(f"Received: {line}\r\n" for line in lines)
    return f"{head}Subject: buy\r\n\r\nBuy!\r\n".encode("latin-1")


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_who_connected_is_found_in_every_fashion(line):
    address = ip_address("2600::1" if "2600" in line else THEM)
    assert origin_of(mail(line), OURS) == Origin(address, 1)


STEPS = {
    "trusted": "from mx2.ours.example (mx2.ours.example [192.0.2.2]) by mx with ESMTP; x",
    "trusted-ipv6": "from mx2 (mx2 [IPv6:2001:db8:1::2]) by mx with ESMTP; x",
    "filter": "from localhost (localhost [127.0.0.1]) by mx (Postfix) with ESMTP id 1; x",
    "private": "from edge.ours (edge.ours [10.0.0.5]) by mx with ESMTP; x",
    "lmtp": "from mx.ours.example by store.ours.example (Dovecot) with LMTP id 1; x",
    "qmail-queue": "(qmail 4711 invoked from network); 1 Jan 2026 00:00:00 -0000",
    "uid": "by mx.ours.example (Postfix, from userid 1000) id 4; x",
    "exim-local": "from mail by mx with local (Exim 4.96) id 1q; x",
    "exchange-inside": "from EX1 (2001:db8:1::5) by EX2 (192.0.2.4) with Microsoft SMTP Server; x",
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_our_own_hosts_are_walked_through(step):
    assert origin_of(mail(step, LINES["postfix"]), OURS) == Origin(ip_address(THEM), 2)


def test_all_of_them_one_after_the_other():
    lines = [*STEPS.values(), LINES["exim"], *STEPS.values()]
    assert origin_of(mail(*lines), OURS) == Origin(ip_address(THEM), len(STEPS) + 1)


FORGED = "from victim.example (victim.example [11.99.99.99]) by mx.ours.example (Postfix); x"


def test_what_the_sender_wrote_below_is_not_believed():
    assert origin_of(mail(LINES["postfix"], FORGED, FORGED), OURS).address == ip_address(THEM)


@pytest.mark.parametrize(
    "line",
    [
        "from victim.example ([11.99.99.99]) (a.example [11.22.33.44]) by mx (Postfix); x",
        "from 11.99.99.99 by mx ([11.22.33.44] helo=[11.99.99.99]",
        "from x (HELO a ([11.99.99.99])) (11.22.33.44) by mx with SMTP; x",
        "from somebody (unknown) by mx (Postfix) with ESMTP id 4; x",
        "from unknown by mx with ESMTP",
        "from (",
        "from x (a [11.22.33.44]) (b [11.22.33.45]) by mx; x",
    ],
)
def test_where_a_line_can_be_read_in_two_ways_nobody_is_named(line):
    with pytest.raises(NoOriginError, match="Received line"):
        origin_of(mail(line), OURS)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([], "no Received line"),
        (list(STEPS.values()), "name hosts of ours"),
        (["from x by mx with ESMTP; x"], "names no address"),
    ],
)
def test_without_an_origin_it_is_told_why(lines, why):
    with pytest.raises(NoOriginError, match=why):
        origin_of(mail(*lines), OURS)


def test_a_lab_is_outside_though_it_is_private():
    line = "from a (a [10.1.2.3]) by mx with ESMTP; x"
    with pytest.raises(NoOriginError):
        origin_of(mail(line), OURS)
    lab = ip_network("10.1.0.0/16")
    assert origin_of(mail(line), OURS, [lab]).address == ip_address("10.1.2.3")
    assert origin_of(mail(STEPS["trusted"], line), OURS, [lab, *OURS]).line == 2


TEXT = st.text("from by(])[ :.;\r\nhelo=HELOwitlmp0123456789abcdef", max_size=200)


@given(st.lists(TEXT, max_size=5))
def test_whatever_stands_there_an_outsider_or_a_reason_comes_out(lines):
    try:
        found = origin_of(mail(*lines), OURS)
    except NoOriginError:
        return
    assert 1 <= found.line <= 50
    assert not any(found.address in network for network in OURS)
    assert not found.address.is_loopback


@pytest.mark.parametrize(
    ("lines", "inside"),
    [
        ([], True),
        (list(STEPS.values()), True),
        ([*STEPS.values(), LINES["exim"]], False),
        ([LINES["postfix"]], False),
        (["from somebody (unknown) by mx (Postfix) with ESMTP id 4; x"], False),
    ],
)
def test_whether_one_of_us_wrote_it(lines, inside):
    assert is_from_inside(mail(*lines), OURS) is inside


@pytest.mark.parametrize("name", ["[9.9.9.9](;", "([10.0.0.1];", "(("])
def test_a_name_that_begins_a_comment_names_nobody(name):
    """Found by fuzzing. Stock servers write other characters for these, but who knows."""
    message = mail(f"from {name} (rdns.example [11.22.33.44]) by mx (Postfix) with ESMTP id 4; x")
    with pytest.raises(NoOriginError, match="comment without an end"):
        origin_of(message, OURS)
    assert not is_from_inside(message, OURS)
