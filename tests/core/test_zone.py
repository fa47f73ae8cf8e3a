"""The list as DNS data: what rbldnsd reads, and what the built-in answerer says."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relaytest.core.config import parse_config
from relaytest.core.publishing import Publish
from relaytest.core.zone import (
    CODES,
    OUTPUT,
    Absence,
    Apex,
    Entry,
    answer,
    apex_of,
    entry_text,
    parse_question,
    query_name,
    render_apex,
    render_ip4,
    render_ip6,
    render_zone,
    self_test,
    serial_of,
    zones_of,
)

ZONE = "relays.example"
APEX = Apex(
    zone=ZONE,
    nameservers=("ns1.relays.example", "ns2.relays.example"),
    hostmaster="hostmaster.checker.example",
    ttl=timedelta(minutes=5),
    text="Open relay, tested and confirmed; see https://relays.example/lookup/",
)
STAMPED_AT = datetime(2026, 11, 2, 9, 8, 7, tzinfo=UTC)
WEEK = timedelta(days=7)

LISTED = IPv4Address("192.0.2.99")
LISTED_6 = IPv6Address("2001:db8:1:2:3:4:567:89ab")
NAME_6 = "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2"  # RFC 5782 section 2.4
MAPPED = "f.f.f.f" + ".0" * 20


def listed(address):
    return 2 if address in {LISTED, LISTED_6} else None


def everything_listed(address):
    return 2


def parents_of(labels):
    """Every name between `labels` and the zone."""
    parts = labels.split(".")
    return [".".join(parts[place:]) for place in range(1, len(parts))]


# ---- what rbldnsd reads


def test_the_head_of_the_ipv4_file_is_this_and_no_more():
    assert render_ip4(APEX, stamped_at=STAMPED_AT, expire_after=WEEK).splitlines() == [
        "$SOA 300 ns1.relays.example hostmaster.checker.example 0 1h 15m 2w 300",
        "$NS 1d ns1.relays.example ns2.relays.example",
        "$TTL 300",
        "$TIMESTAMP 2026:11:02:09:08:07 2026:11:09:09:08:07",
        "$MAXRANGE4 /32",
        ":127.0.0.2:Open relay, tested and confirmed; see https://relays.example/lookup/$",
        "!127.0.0.1",
        "127.0.0.2 :2:Test entry (RFC 5782), no real listing",
    ]


def test_the_head_of_the_ipv6_file_has_the_same_entries_in_hex_and_no_soa():
    assert render_ip6(APEX, stamped_at=STAMPED_AT, expire_after=WEEK).splitlines() == [
        "$TTL 300",
        "$TIMESTAMP 2026:11:02:09:08:07 2026:11:09:09:08:07",
        ":127.0.0.2:Open relay, tested and confirmed; see https://relays.example/lookup/$",
        "!::ffff:7f00:1",
        "::ffff:7f00:2 :2:Test entry (RFC 5782), no real listing",
    ]


def test_the_zone_itself_says_what_it_is():
    first, *paths = render_apex(APEX).splitlines()
    assert first == '@ 300 TXT "relays.example: DNS list of tested open relays"'
    names = {line.removesuffix(" MX 0 .") for line in paths}
    # all that is above 2.0.0.127 and above the v4-mapped one, and nothing else
    assert {"127", "0.127", "0.0.127"} <= names
    assert len(names) == len(paths) == 3 + 31
    assert all(
        f".2.0.0.0.0.0.f.7.{MAPPED}".endswith(f".{name}") for name in names if "127" not in name
    )


def test_a_list_at_its_end_has_no_name_above_an_entry():
    assert render_apex(replace(APEX, shut=True)).count("\n") == 1


@pytest.mark.parametrize("render", [render_ip4, render_ip6], ids=["ip4", "ip6"])
def test_a_head_ends_its_last_line(render):
    assert render(APEX, stamped_at=STAMPED_AT, expire_after=WEEK).endswith("listing\n")


@pytest.mark.parametrize("render", [render_ip4, render_ip6], ids=["ip4", "ip6"])
def test_a_head_has_a_test_entry_for_each_code(render):
    head = render(APEX, stamped_at=STAMPED_AT, expire_after=WEEK)
    assert head.count("Test entry") == len(CODES)


def test_every_code_is_an_answer_that_is_no_test_of_absence():
    assert all(2 <= code <= 254 for code in CODES)


def test_the_ttl_is_told_in_whole_seconds():
    apex = Apex(ZONE, ("ns.relays.example",), "h.example", timedelta(hours=1.5), "")
    assert apex.seconds == 5400


# ---- what the configuration says


def test_the_apex_is_as_configured():
    publish = Publish(
        zone=ZONE,
        nameservers=["ns1.relays.example", "ns2.relays.example"],
        hostmaster="hostmaster.checker.example",
        ttl=timedelta(minutes=5),
        lookup_url="https://relays.example/lookup/",
    )
    assert apex_of(publish) == APEX


def test_a_zone_without_configured_nameservers_has_one_below_it():
    assert apex_of(Publish(zone=ZONE)).nameservers == ("ns.relays.example",)


@pytest.mark.parametrize(
    ("lookup_url", "text"),
    [
        (
            "https://relays.example/?a=",
            "Open relay, tested and confirmed; see https://relays.example/?a=192.0.2.99",
        ),
        ("", "Open relay, tested and confirmed: 192.0.2.99"),
    ],
    ids=["with-a-page", "without"],
)
def test_the_text_of_an_entry_ends_with_the_address(lookup_url, text):
    assert f"{entry_text(lookup_url)}192.0.2.99" == text


def test_the_longest_text_fits_into_one_string_of_a_txt_record():
    longest = IPv6Address("2001:db8:1111:2222:3333:4444:5555:6666")
    assert len(f"{entry_text('x' * 150)}{longest}") <= 255


# ---- names


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("192.0.2.99", "99.2.0.192"),
        ("127.0.0.2", "2.0.0.127"),
        ("2001:db8:1:2:3:4:567:89ab", NAME_6),
        ("::ffff:7f00:2", f"2.0.0.0.0.0.f.7.{MAPPED}"),
    ],
    ids=["rfc-5782-2.1", "test-entry", "rfc-5782-2.4", "mapped-test-entry"],
)
def test_the_query_name_is_the_address_reversed_before_the_zone(text, labels):
    assert query_name(ip_address(text), ZONE) == f"{labels}.{ZONE}"


@given(st.ip_addresses())
@settings(derandomize=True, deadline=None, max_examples=300)
def test_the_name_of_an_address_is_read_as_the_address(address):
    labels = query_name(address, ZONE).removesuffix(f".{ZONE}")
    expected = getattr(address, "ipv4_mapped", None) or address
    assert parse_question(labels) == expected


QUESTIONS = {
    "99.2.0.192": LISTED,
    "0.0.0.0": IPv4Address("0.0.0.0"),
    "255.255.255.255": IPv4Address("255.255.255.255"),
    "1.0.0.2": IPv4Address("2.0.0.1"),
    NAME_6: LISTED_6,
    f"2.0.0.0.0.0.f.7.{MAPPED}": IPv4Address("127.0.0.2"),
    f"3.6.2.0.0.0.0.c.{MAPPED}": LISTED,
    "127": Absence.DATA,
    "0.127": Absence.DATA,
    "0.0.127": Absence.DATA,
    "255": Absence.DATA,
    "2": Absence.DATA,
    "f": Absence.DATA,
    "d.0.1.0.0.2": Absence.DATA,
    "1.2.3.4.5": Absence.DATA,
    ".".join("0" * 31): Absence.DATA,
    "256": Absence.NAME,
    "1.256": Absence.NAME,
    "256.2.0.192": Absence.NAME,
    "1.2.0.256": Absence.NAME,
    "1.2.0.999": Absence.NAME,
    "1.2.0.1000": Absence.NAME,
    "00": Absence.NAME,
    "01": Absence.NAME,
    "01.2.0.192": Absence.NAME,
    "1.2.00.192": Absence.NAME,
    "1.2.3.4.10": Absence.NAME,
    "10.4.3.2.1": Absence.NAME,
    ".".join("0" * 33): Absence.NAME,
    "1." + NAME_6: Absence.NAME,
    "ab": Absence.NAME,
    "g": Absence.NAME,
    "B.a": Absence.NAME,
    "": Absence.NAME,
    ".": Absence.NAME,
    "1.": Absence.NAME,
    ".1": Absence.NAME,
    "1..2": Absence.NAME,
    "-1": Absence.NAME,
    "+1": Absence.NAME,
    "1.2.0.192 ": Absence.NAME,
    "1.2.0.192\n": Absence.NAME,
    "1.2.0.1\u0662": Absence.NAME,
    "1\u0662": Absence.NAME,
    "*": Absence.NAME,
    "www": Absence.NAME,
    "test": Absence.NAME,
    "invalid": Absence.NAME,
    "@": Absence.NAME,
}


@pytest.mark.parametrize(("labels", "meant"), QUESTIONS.items(), ids=map(ascii, QUESTIONS))
def test_a_question_is_an_address_a_way_to_one_or_nothing(labels, meant):
    assert parse_question(labels) == meant


@given(st.text() | st.lists(st.text("0123456789abcdefg\u0662", max_size=4)).map(".".join))
@example("1.2.0.1\u0662")
@settings(derandomize=True, deadline=None, max_examples=500)
def test_any_question_is_read_without_an_error(labels):
    assert parse_question(labels) is not None


# ---- answers


def test_a_listed_ipv4_address_has_its_code_and_its_page():
    assert answer("99.2.0.192", APEX, listed) == Entry(2, f"{APEX.text}192.0.2.99")


def test_a_listed_ipv6_address_has_its_code_and_its_page():
    assert answer(NAME_6, APEX, listed) == Entry(2, f"{APEX.text}2001:db8:1:2:3:4:567:89ab")


def test_the_code_is_what_the_list_says():
    assert answer("99.2.0.192", APEX, lambda _: 7) == Entry(7, f"{APEX.text}192.0.2.99")


@pytest.mark.parametrize(
    "labels",
    ["98.2.0.192", f"2.0.0.0.0.0.a.0.{MAPPED}", "c" + NAME_6[1:]],
    ids=["v4", "mapped", "v6"],
)
def test_an_address_that_is_not_listed_has_no_name(labels):
    assert answer(labels, APEX, listed) is Absence.NAME


@pytest.mark.parametrize(
    "labels",
    [
        *parents_of("99.2.0.192"),
        *parents_of("2.0.0.127"),
        *parents_of(NAME_6),
        *parents_of(f"2.0.0.0.0.0.f.7.{MAPPED}"),
    ],
)
def test_every_name_on_the_way_to_an_entry_exists(labels):
    """RFC 8020 section 2: NXDOMAIN for it would deny the entries below."""
    assert answer(labels, APEX, listed) is Absence.DATA


@pytest.mark.parametrize(
    ("is_listed", "said"),
    [(listed, Absence.DATA), (everything_listed, Entry(2, f"{APEX.text}2.0.0.1"))],
    ids=["not-listed", "listed"],
)
def test_1_0_0_2_is_an_address_and_the_way_to_2001_too(is_listed, said):
    assert answer("1.0.0.2", APEX, is_listed) == said


@pytest.mark.parametrize("labels", ["10.0.0.2", "1.0.0.20"], ids=["last", "first"])
def test_an_ipv4_name_with_a_long_label_is_no_way_to_an_ipv6_address(labels):
    assert answer(labels, APEX, listed) is Absence.NAME


@pytest.mark.parametrize("labels", ["2.0.0.127", f"2.0.0.0.0.0.f.7.{MAPPED}"], ids=["v4", "mapped"])
@pytest.mark.parametrize("is_listed", [lambda _: None, lambda _: 9], ids=["empty", "full"])
def test_127_0_0_2_is_listed_whatever_the_list_says(labels, is_listed):
    text = "Test entry (RFC 5782), no real listing"
    assert answer(labels, APEX, is_listed) == Entry(2, text)


@pytest.mark.parametrize("labels", ["1.0.0.127", f"1.0.0.0.0.0.f.7.{MAPPED}"], ids=["v4", "mapped"])
@pytest.mark.parametrize("is_listed", [listed, everything_listed], ids=["empty", "full"])
def test_127_0_0_1_is_never_listed_whatever_the_list_says(labels, is_listed):
    assert isinstance(answer(labels, APEX, is_listed), Absence)


# ---- the look at a live zone


def test_a_live_zone_is_asked_for_its_test_entries_and_for_what_must_be_absent():
    assert list(self_test(ZONE)) == [
        ("2.0.0.127.relays.example", "127.0.0.2"),
        (f"2.0.0.0.0.0.f.7.{MAPPED}.relays.example", "127.0.0.2"),
        ("1.0.0.127.relays.example", None),
        (f"1.0.0.0.0.0.f.7.{MAPPED}.relays.example", None),
    ]


def test_the_answerer_passes_its_own_test():
    said = [answer(name.removesuffix(f".{ZONE}"), APEX, listed) for name, _ in self_test(ZONE)]
    found = [f"127.0.0.{one.code}" if isinstance(one, Entry) else None for one in said]
    assert found == [expected for _, expected in self_test(ZONE)]


# --- the master file


def test_the_head_of_a_master_file_has_what_the_zone_says_of_itself():
    apex = replace(APEX, code=OUTPUT)
    assert render_zone(apex, 42).splitlines() == [
        f"$ORIGIN {apex.zone}.",
        f"$TTL {apex.seconds}",
        f"@ SOA {apex.nameservers[0]}. {apex.hostmaster}. 42 3600 900 1209600 {apex.seconds}",
        *(f"@ 86400 NS {name}." for name in apex.nameservers),
        f'@ TXT "{apex.zone}: DNS list of tested open relays"',
        *(
            line
            for code in (2, 3)
            for owner in (f"{code}.0.0.127", f"{code}.0.0.0.0.0.f.7.f.f.f.f{'.0' * 20}")
            for line in (
                f"{owner} A 127.0.0.{code}",
                f'{owner} TXT "Test entry (RFC 5782), no real listing"',
            )
        ),
    ]


def test_the_serial_is_read_from_the_head():
    assert serial_of(render_zone(APEX, 4294967295)) == 4294967295
    assert serial_of("") == serial_of("@ SOA only half a li") == 0


def test_zones_of_one_ip_version_are_made_if_they_are_wanted():
    config = parse_config({"publish": {"zone": ZONE, "by_version": True}})
    zones = {apex.zone: apex.versions for apex in zones_of(config)}
    assert zones == {ZONE: (4, 6), f"v4.{ZONE}": (4,), f"v6.{ZONE}": (6,)}
    assert len(zones_of(parse_config({}))) == 1


def test_a_zone_of_relays_and_exits_is_made_if_it_is_wanted():
    publish = {"zone": ZONE, "combined": True}
    config = parse_config({"publish": publish, "listing": {"outputs": True}})
    codes = {apex.zone: tuple(apex.texts) for apex in zones_of(config)}
    assert codes == {ZONE: (2,), f"outputs.{ZONE}": (3,), f"all.{ZONE}": (2, 3)}
    assert len(zones_of(parse_config({"publish": publish}))) == 1


def test_an_entry_of_several_codes_has_the_text_of_its_own():
    apex = replace(APEX, also=((3, "Exit: "),))
    assert apex.codes == (2, 3)
    assert answer("99.2.0.192", apex, lambda _: 3) == Entry(3, "Exit: 192.0.2.99")


@pytest.mark.parametrize("version", [4, 6])
def test_a_zone_of_one_ip_version_says_nothing_of_the_other(version):
    apex = replace(APEX, versions=(version,))
    for text in ("192.0.2.99", "2001:db8::1"):
        address = ip_address(text)
        found = answer(query_name(address, "").rstrip("."), apex, lambda _: 2)
        assert isinstance(found, Entry) is (address.version == version)
