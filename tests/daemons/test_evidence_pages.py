"""The evidence as people see it: what decides comes first, and nothing of it does harm."""

import pytest

from tests.daemons.test_web import (
    ANYWHERE,
    HOSTILE,
    POSTFIX,
    TOKEN,
    A,
    Site,
    found_open,
    hides,
    nominated,
    put_on,
    received,
    serving,
    talked,
    trial,
)

ALL = ("/evidence/1", "/evidence/1/message/1", "/evidence/1/session/1")
SHOWN = r"\x1b[31m \x00 \xe2\x80\xae \xff & " + '" ' + r"\\"
SPAM = b"To: Ann <ann.miller@ours.example>\r\nSubject: Hi ann.miller " + HOSTILE + b"\r\n\r\nx"


def handed_over(token: str, took: bytes = b"250 2.0.0 Ok: queued as 7F3A") -> list[bytes]:
    """What we and the server say in turn when a message is handed over."""
    return [
        b"MAIL FROM:<x@sink.example>\r\nRCPT TO:<%b@sink.example>\r\nDATA\r\n" % token.encode(),
        b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 Go\r\n",
        b"Subject: routing\r\n\r\ntext\r\n.\r\n",
        took + b"\r\n",
    ]


def marked(text: str) -> list[str]:
    parts = text.split('<mark class="decides">')[1:]
    return [part.partition("</mark>")[0].partition(": ")[2] for part in parts]


@pytest.fixture
async def site(database, tmp_path):
    async with serving(database, tmp_path) as running:
        yield running


@pytest.fixture
async def shown(site, connection) -> Site:
    """A site with a message that came back, how it was handed over, and a sample of spam."""
    await put_on(connection)
    await talked(connection, b"EHLO probe.example\r\n", b"250-mx\r\n250 PIPELINING\r\n")
    await talked(connection, *handed_over(TOKEN))
    way = (
        b"Received: from out (out [192.0.2.9]) by sink; x\r\n"
        b"Received: from probe (probe [198.51.100.1])\r\n\tby mx ([192.0.2.1]); x\r\n\r\nHi\r\n"
    )
    await received(connection, message=way, forward=b"<%b@sink.example>" % TOKEN.upper().encode())
    await connection.execute("UPDATE relaytest.session SET source = '198.51.100.1'")
    await found_open(connection, "S-EXT/R-PLAIN")
    await nominated(connection, SPAM)
    return site


async def test_what_decides_comes_first_and_is_marked(shown):
    page = await shown.get("/evidence/1")
    assert marked(page.text) == [
        "MAIL FROM:&lt;x@sink.example&gt;",
        "RCPT TO:&lt;(token)@sink.example&gt;",
        "250 2.0.0 Ok: queued as 7F3A",
    ]
    assert "EHLO probe.example" not in page.text
    assert page.words.index("How the server took it") < page.words.index("Connections (2)")
    assert 'href="/evidence/1.zip"' in page.text
    assert page.headers["x-robots-tag"] == "noindex"


async def test_the_way_back_is_told_step_by_step(shown):
    for path in ("/evidence/1", "/evidence/1/message/1"):
        words = (await shown.get(path)).words
        steps = [part.partition("</li>")[0].strip() for part in words.split("<li>")[1:]]
        assert "<strong>The exit, which is not the tested server</strong>: 192.0.2.9" in steps[0]
        assert "<strong>the exit</strong>: from out (out [192.0.2.9])" in steps[1]
        assert "<strong>the tested server, we</strong>: from probe" in steps[2]
        assert "<strong>We</strong> gave it to the tested server, 192.0.2.1" in steps[3]


async def test_each_connection_has_a_page(shown):
    first = await shown.get("/evidence/1/session/1")
    assert "C: EHLO probe.example" in first.text
    assert "S: 250 PIPELINING" in first.text
    assert marked(first.text) == []
    assert len(marked((await shown.get("/evidence/1/session/2")).text)) == 3


async def test_each_message_has_a_page(shown):
    page = await shown.get("/evidence/1/message/1")
    assert "S-EXT/R-PLAIN" in page.text
    assert "192.0.2.9, which called itself x" in page.words
    assert "2 copies" in page.words
    assert "    by mx ([192.0.2.1]); x" in page.text


async def test_the_spam_is_shown_with_the_evidence(shown, connection):
    page = await shown.get("/evidence/1")
    assert "Spam that came through it" in page.words
    assert "Subject: Hi" in page.text
    assert not [word for word in ("ann", "miller") if f" {word}" in page.text.lower()]
    await connection.execute("DELETE FROM relaytest.listing")
    assert "Spam that came" not in (await shown.get("/evidence/1")).words


async def test_what_only_bounced_proves_nothing(shown, connection):
    await connection.execute("UPDATE relaytest.receipt SET mailbox = 'reverse'")
    page = await shown.get("/evidence/1")
    assert "The message that came back" not in page.words
    assert "a bounce or an answer" in page.words
    assert "which proves no relay" in (await shown.get("/evidence/1/message/1")).words


async def test_what_runs_in_no_browser_is_not_allowed_to(shown):
    for path in (*ALL, "/sample/1"):
        headers = (await shown.get(path)).headers
        assert headers["content-security-policy"].endswith("; sandbox allow-downloads")
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-robots-tag"] == "noindex"


@pytest.mark.parametrize("path", ["message/0", "message/2", "session/0", "session/3", "session/x"])
async def test_a_part_that_is_not_there_is_a_404(shown, path):
    assert (await shown.get(f"/evidence/1/{path}")).status in {404, 422}
    assert (await shown.get(f"/evidence/9/{path}")).status in {404, 422}


async def test_hostile_octets_are_shown_as_harmless_text(site, connection):
    await trial(connection)
    await talked(connection, *handed_over(TOKEN, b"250 " + HOSTILE))
    await received(
        connection,
        message=b"Subject: " + HOSTILE + b"\r\n\r\n" + HOSTILE,
        helo=HOSTILE,
        reverse=b"<" + HOSTILE + b">",
        forward=TOKEN.encode() + HOSTILE,
    )
    for path, count in zip(ALL, (6, 5, 1), strict=True):
        page = await site.get(path)
        assert page.status == 200
        assert "<script" not in page.text
        assert page.text.count("&lt;script&gt;") == count
        assert page.words.count(SHOWN) == count
        assert not {"\x1b", "\x00", "\u202e", "\ufffd"} & set(page.text)


async def test_a_form_that_the_program_no_longer_knows_is_shown_by_its_number(site, connection):
    await trial(connection)
    await received(connection)
    await connection.execute("UPDATE relaytest.receipt SET form = 65000")
    assert "form 65000" in (await site.get("/evidence/1")).text
    assert "form 65000" in (await site.get("/evidence/1/message/1")).text


async def test_a_trial_without_evidence_has_a_page(site, connection):
    await trial(connection)
    page = await site.get("/evidence/1")
    assert (page.status, page.text.count("None.")) == (200, 1)


@pytest.mark.parametrize("number", ["2", "0", "-1", str(1 << 40), "9" * 40])
async def test_evidence_that_is_not_there_is_a_404(site, connection, number):
    await trial(connection)
    page = await site.get(f"/evidence/{number}")
    assert page.status == 404
    assert "No such evidence" in page.text


@pytest.mark.parametrize("octets", ANYWHERE.values(), ids=ANYWHERE)
async def test_no_token_is_shown_in_evidence(site, connection, octets):
    await trial(connection)
    await talked(connection, octets + b"\r\n", octets + b"\r\n")
    assert hides(await site.get("/evidence/1/session/1"))
    await received(connection, message=octets, helo=octets, reverse=octets, forward=octets)
    for path in ALL:
        assert hides(await site.get(path))


async def test_no_token_is_shown_where_a_line_was_cut(site, connection):
    await trial(connection)
    for before in range(970, 1001):
        await talked(connection, b"x" * before + b" " + TOKEN.encode() + b"\r\n")
    for number in range(1, 32):
        page = await site.get(f"/evidence/1/session/{number}")
        assert TOKEN[:20] not in page.text


async def test_no_token_is_shown_in_what_broke_a_session(site, connection):
    await trial(connection)
    await talked(connection, b"x", detail=f"the server hung up: {POSTFIX}")
    assert hides(await site.get("/evidence/1/session/1"))


async def test_evidence_is_one_file_to_load(site, connection):
    await put_on(connection)
    page = await site.head_of("/evidence/1.zip")
    assert page["content-type"] == "application/zip"
    assert page["content-disposition"] == 'attachment; filename="evidence-1.zip"'
    assert (await site.get("/evidence/7.zip")).status == 404


# --- samples of spam


async def test_the_spam_is_shown_while_its_sender_is_listed_but_not_who_got_it(site, connection):
    await nominated(connection, SPAM)
    assert (await site.get("/sample/1")).status == 404
    assert "/sample/1" not in (await site.get(f"/lookup/{A}")).text
    await put_on(connection)
    assert '<a href="/sample/1">' in (await site.get(f"/lookup/{A}")).text
    page = await site.get("/sample/1")
    assert page.status == 200
    assert page.headers["x-robots-tag"] == "noindex"
    assert "Subject: Hi " in page.words
    assert "&lt;script&gt;" in page.text
    assert "<script" not in page.text
    assert not [word for word in ("ann", "miller") if word in page.text.lower()]


@pytest.mark.parametrize("number", ["0", "-1", "7", "9" * 40])
async def test_a_sample_that_is_not_there_is_a_404(site, number):
    assert (await site.get(f"/sample/{number}")).status == 404
