"""Advice: the product by what it says, the hole by what was relayed, and a file that is sound."""

import re

import pytest

from relaytest.core.advice import parse_advice
from relaytest.core.errors import BatteryError
from relaytest.daemons import shipped

ADVICE = shipped.advice()
BATTERY = {form.id: form for form in shipped.battery().forms}
SAID = {
    "Postfix": "220 mx.example ESMTP Postfix (Debian/GNU)\r\n",
    "mailcow": "220 mail.example ESMTP Postcow\r\n",
    "Exim": "220 mx.example ESMTP Exim 4.96 Tue, 24 Nov 2026 10:00:00 +0000\r\n",
    "Sendmail": "220 mx.example ESMTP Sendmail 8.17.1/8.17.1; Tue, 24 Nov 2026\r\n",
    "Microsoft Exchange": "220 EX1.example Microsoft ESMTP MAIL Service ready at Tue\r\n",
    "IIS SMTP or Exchange 2000/2003": "220 a Microsoft ESMTP MAIL Service, Version: 6.0.3790\r\n",
    "OpenSMTPD": "220 mx.example ESMTP OpenSMTPD\r\n",
    "qmail": "220 a ESMTP\r\n553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)",
    "Haraka": "220 a.example ESMTP Haraka/3.0.3 ready (ABC)\r\n",
    "hMailServer": "220 a ESMTP\r\n211 DATA HELO EHLO MAIL NOOP QUIT RCPT RSET SAML TURN VRFY\r\n",
    "HCL (Lotus) Domino": "220 a ESMTP Service (Lotus Domino Release 9.0.1) ready at Tue\r\n",
    "a tool for developers": "220 mailhog.example ESMTP MailHog\r\n",
    "Zimbra": "220 zimbra.example ESMTP Postfix\r\n",
    "MDaemon": "220 a.example ESMTP MDaemon 17.5.0; Tue, 24 Nov 2026\r\n",
    "Kerio Connect": "220 a.example Kerio Connect 9.4 ESMTP ready\r\n",
    "MailEnable": "220 a.example ESMTP MailEnable Service, Version: 10 ready\r\n",
    "GroupWise": "220 a.example GroupWise Internet Agent 18 Ready\r\n",
    "IceWarp (Merak)": "220 a.example ESMTP IceWarp 13.0; Tue\r\n",
    "CommuniGate Pro": "220 a.example ESMTP CommuniGate Pro 6.2 is glad to see you!\r\n",
    "Axigen": "220 a.example Axigen ESMTP ready\r\n",
    "SmarterMail": "220 a.example ESMTP SmarterMail\r\n",
    "Stalwart": "220 a.example Stalwart ESMTP at your service\r\n",
    "Courier": "220 a\r\n502 ESMTP command error\r\n",
    "PowerMTA": "220 a.example (PowerMTA(TM) v4.5) ESMTP service ready\r\n",
    "an older server for Windows (IMail, SurgeMail, XMail, Mercury, ArGoSoft, Xeams)": (
        "220 X1 NT-ESMTP Server a.example (IMail 8.05 1-1)\r\n"
    ),
}


def test_every_product_has_words_here():
    assert {product.name for product in ADVICE.products} == set(SAID)


@pytest.mark.parametrize("name", SAID)
def test_a_product_is_known_by_what_it_says(name):
    for said in (SAID[name], SAID[name].upper()):
        product = ADVICE.product_of(said)
        assert product is not None
        assert product.name == name


@pytest.mark.parametrize(
    "said", ["", "220 mx.example ESMTP\r\n250 Ok\r\n", "554 No\r\n", "\xff" * 99]
)
def test_what_nobody_knows_looks_like_nothing(said):
    assert ADVICE.product_of(said) is None


def test_a_hostile_server_does_not_keep_us_busy():
    for filler in ("220 " + "a" * 20_000, "220-x ESMTP " * 1700, "250-\r\n" * 3000):
        assert ADVICE.product_of(filler) is None


@pytest.mark.parametrize("product", ADVICE.products, ids=lambda one: one.name)
def test_each_product_has_all_that_a_person_needs(product):
    assert product.match
    assert product.settings
    assert product.verify
    assert product.source.startswith("https://")
    assert all(text.strip() == text for text in (*product.settings, *product.verify))


HOLES = {
    "S-EXT/R-PLAIN": "Open to all",
    "S-NULL/R-PLAIN": "The null sender",
    "S-DOM/R-PLAIN": "A sender anybody can claim",
    "S-IP/R-PLAIN": "A sender anybody can claim",
    "S-LOCALHOST/R-PLAIN": "A sender anybody can claim",
}


@pytest.mark.parametrize("form", HOLES)
def test_a_form_shows_the_hole(form):
    assert [hole.name for hole in ADVICE.holes_of([BATTERY[form]])] == [HOLES[form]]


def test_recipients_with_a_route_inside_show_it():
    for form in BATTERY.values():
        if re.search('[%!"]|^<@', form.recipient.template):
            (hole,) = ADVICE.holes_of([form])
            assert hole.name == "Routing inside the address"


def test_who_is_open_to_all_is_told_of_that_only():
    holes = ADVICE.holes_of([BATTERY[form] for form in HOLES])
    assert [hole.name for hole in holes] == ["Open to all"]


def test_each_hole_is_told_once():
    holes = ADVICE.holes_of([BATTERY["S-DOM/R-PLAIN"], BATTERY["S-IP/R-PLAIN"]])
    assert [hole.name for hole in holes] == ["A sender anybody can claim"]


HOLE = '[[hole]]\nname = "x"\ntext = "y"\n'
WRONG = {
    "no-toml": ("x", "not TOML"),
    "nothing": ("", r"no \[\[hole\]\]"),
    "unknown-table": ("[[x]]", "unknown key 'x'"),
    "unknown-key": (HOLE + "x = 1", "hole 1: unknown key 'x'"),
    "no-text": ('[[hole]]\nname = "x"', "hole 1: key 'text' is missing"),
    "no-pattern": (HOLE + 'sender = "("', "hole 1: '\\(' is no regular expression"),
    "no-match": ('[[product]]\nname = "x"', "product 1: key 'match' is missing"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_is_wrong_is_refused_with_its_place(name):
    text, said = WRONG[name]
    with pytest.raises(BatteryError, match=said):
        parse_advice(text)
