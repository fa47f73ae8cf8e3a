"""The server's side of SMTP: what is said, what is delivered, and what it may cost."""

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaytest.core.reception import (
    REFUSAL,
    Close,
    Deliver,
    Limits,
    Recipient,
    Secure,
    Session,
    Write,
)

TOKEN = b"aebagbafaydqqcikbmga2dqpcaireeyu"
PATH = b"<" + TOKEN + b"@sink.example>"
MAIL = b"MAIL FROM:<>\r\n"
RCPT = b"RCPT TO:" + PATH + b"\r\n"
OPEN = b"EHLO relay.example\r\n" + MAIL + RCPT + b"DATA\r\n"
OPENED = [250, 250, 250, 354]


def policy(local_part, domain):
    """Take one mailbox; the ticket is what was asked for."""
    known = (local_part.lower(), domain.lower()) == (TOKEN, b"sink.example")
    return (local_part, domain) if known else None


class Client:
    """Talks to a session and keeps what came back."""

    def __init__(self, limits=None, store=True, **options):
        limits = limits or Limits()
        self.session = Session(b"sink.example", limits, policy, **options)
        self.store = store  # None: do not answer deliveries
        self.wire = bytearray()
        self.deliveries = []
        self.closed = False
        self.most_held = 0

    def say(self, octets):
        self.perform(self.session.receive(octets))
        self.most_held = max(self.most_held, self.session.held_octets)
        return self

    def perform(self, actions):
        for action in actions:
            if isinstance(action, Write):
                self.wire += action.octets
            elif isinstance(action, Deliver):
                self.deliveries.append(action.delivery)
                if self.store is not None:
                    self.perform(self.session.stored(self.store))
            else:
                assert action == Close()
                self.closed = True

    @property
    def codes(self):
        """The code of each reply."""
        return [int(line[:3]) for line in self.wire.split(b"\r\n") if line[3:4] == b" "]

    @property
    def last(self):
        """The last reply line."""
        return bytes(self.wire.split(b"\r\n")[-2])


def said(octets, **options):
    return Client(**options).say(octets)


def replied(command, before=b""):
    """Return the reply to one command."""
    return said(before + command + b"\r\n").last


# ---- greeting and commands


def test_greeting_names_host_and_esmtp():
    assert Client().session.greeting() == b"220 sink.example ESMTP\r\n"


def test_ehlo_announces_the_extensions():
    limits = Limits(message_octets=5000)
    assert said(b"EHLO relay.example\r\n", limits=limits).wire.split(b"\r\n") == [
        b"250-sink.example",
        b"250-PIPELINING",
        b"250-SIZE 5000",
        b"250-8BITMIME",
        b"250-ENHANCEDSTATUSCODES",
        b"250 SMTPUTF8",
        b"",
    ]


def test_helo_announces_nothing():
    assert said(b"HELO relay.example\r\n").wire == b"250 sink.example\r\n"


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        (b"NOOP", b"250 2.0.0"),
        (b"NOOP with words", b"250 2.0.0"),
        (b"RSET", b"250 2.0.0"),
        (b"VRFY root", b"252 2.0.0"),
        (b"HELP", b"214 2.0.0"),
        (b"QUIT", b"221 2.0.0"),
        (b"EHLO", b"250 SMTPUTF8"),
        (b"STARTTLS", b"502 5.5.1"),
        (b"AUTH PLAIN AA==", b"502 5.5.1"),
        (b"EXPN list", b"502 5.5.1"),
        (b"BDAT 3 LAST", b"502 5.5.1"),
        (b"LHLO relay.example", b"500 5.5.2"),
        (b"GET / HTTP/1.1", b"500 5.5.2"),
        (b"", b"500 5.5.2"),
        (b"\x00\xff\xfe", b"500 5.5.2"),
        (b"RCPT TO:<a@sink.example>", b"503 5.5.1"),
        (b"DATA", b"503 5.5.1"),
        (b"MAIL <a@relay.example>", b"501 5.5.4"),
        (b"MAIL", b"501 5.5.4"),
        (b"RCPT <a@relay.example>", b"501 5.5.4"),
        (b"MAIL FROM:<a@relay.example>", b"250 2.1.0"),
    ],
)
def test_reply_to_a_first_command(command, reply):
    assert replied(command).startswith(reply)


@pytest.mark.parametrize("verb", [b"noop", b"NoOp", b"NOOP"])
@pytest.mark.parametrize("end", [b"\r\n", b"\n", b" \t\r\n"])
def test_command_is_understood_in_any_case_and_with_either_line_end(verb, end):
    assert said(verb + end).codes == [250]


def encrypting(tls=True):
    """A session that offers STARTTLS, and what its EHLO says."""
    session = Session(b"sink.example", Limits(), policy, tls=tls)
    return session, wrote(session.receive(b"EHLO relay.example\r\n"))


def wrote(actions):
    """The one reply that there is."""
    (write,) = actions
    assert isinstance(write, Write)
    return write.octets


def test_starttls_is_announced_where_it_is_offered_and_not_inside_tls():
    session, announced = encrypting()
    assert b"250-STARTTLS\r\n" in announced
    assert b"STARTTLS" not in encrypting(tls=False)[1]
    assert session.receive(b"starttls\r\n") == [Write(b"220 2.0.0 Go ahead\r\n"), Secure()]
    assert session.secured() == []
    said_inside = wrote(session.receive(b"EHLO relay.example\r\nSTARTTLS\r\n"))
    assert b"250-STARTTLS" not in said_inside
    assert said_inside.endswith(b"502 5.5.1 Not implemented\r\n")


def test_what_came_in_clear_behind_starttls_is_dropped():
    """RFC 3207 section 4.2, and CVE-2011-0411."""
    session, _ = encrypting()
    assert session.receive(b"STARTTLS\r\nRSET\r\nNOOP\r\n")[1:] == [Secure()]
    assert session.held_octets == 0
    assert session.secured() == []


def test_what_comes_before_tls_is_told_to_stand_waits_within_bounds():
    session, _ = encrypting()
    session.receive(b"STARTTLS\r\n")
    assert session.receive(b"NOOP\r\n") == []
    assert session.secured() == [Write(b"250 2.0.0 OK\r\n")]
    session, _ = encrypting()
    session.receive(b"STARTTLS\r\n")
    assert session.receive(b"x" * (Limits().backlog_octets + 1)) == []
    assert session.held_octets == Limits().backlog_octets
    assert session.secured()[-1] == Close()


def test_tls_forgets_what_was_said_in_clear():
    session, _ = encrypting()
    session.receive(b"MAIL FROM:<a@relay.example>\r\nSTARTTLS\r\n")
    session.secured()
    assert wrote(session.receive(b"RCPT TO:<a@sink.example>\r\n")) == b"503 5.5.1 MAIL first\r\n"


def test_starttls_takes_no_argument():
    session, _ = encrypting()
    assert session.receive(b"STARTTLS now\r\n") == [Write(b"501 5.5.4 Syntax: STARTTLS\r\n")]


def test_secured_means_nothing_where_no_tls_was_asked_for():
    session, _ = encrypting()
    assert session.secured() == []
    assert session.receive(b"NOOP\r\n") == [Write(b"250 2.0.0 OK\r\n")]


def test_mail_inside_a_transaction_is_out_of_order():
    assert replied(b"MAIL FROM:<>", before=MAIL).startswith(b"503 5.5.1")


@pytest.mark.parametrize("end", [b"RSET\r\n", b"HELO x\r\n", b"EHLO x\r\n"])
def test_transaction_is_forgotten_after(end):
    assert replied(b"RCPT TO:" + PATH, before=MAIL + RCPT + end).startswith(b"503")


@pytest.mark.parametrize("command", [b"NOOP\r\n", b"VRFY a\r\n", b"HELP\r\n", b"what\r\n"])
def test_transaction_goes_on_after(command):
    assert said(MAIL + command + RCPT).codes[-1] == 250


def test_data_without_an_accepted_recipient_is_refused_at_once():
    client = said(MAIL + b"RCPT TO:<other@sink.example>\r\nDATA\r\n")
    assert client.codes == [250, 550, 554]


def test_quit_closes_and_nothing_is_heard_after_it():
    client = said(b"QUIT\r\nNOOP\r\n").say(b"NOOP\r\n")
    assert (client.codes, client.closed) == ([221], True)


def test_dismissed_session_says_421_once():
    client = Client()
    client.perform(client.session.dismiss(b"4.3.2 Shutting down"))
    client.perform(client.session.dismiss(b"4.3.2 Shutting down"))
    assert (bytes(client.wire), client.closed) == (b"421 4.3.2 Shutting down\r\n", True)


# ---- paths


@pytest.mark.parametrize(
    ("argument", "path"),
    [
        (b"<>", b"<>"),
        (b" <a@b.example>", b"<a@b.example>"),
        (b"<a@b.example> SIZE=99999999 BODY=8BITMIME", b"<a@b.example>"),
        (b"<a@b.example> SMTPUTF8 AUTH=<> RET=HDRS ENVID=x X-NEW=1", b"<a@b.example>"),
        (b'<"a> b"@b.example> SIZE=1', b'<"a> b"@b.example>'),
        (rb'<"a\"> b"@b.example> SIZE=1', rb'<"a\"> b"@b.example>'),
        (b"< a@b.example > SIZE=1", b"< a@b.example >"),
        (b'<"a@b.example> SIZE=1', b'<"a@b.example>'),
        (b"<<a@b.example>> SIZE=1", b"<<a@b.example>>"),
        (b"<a@b.example", b"<a@b.example"),
        (b"a@b.example SIZE=1", b"a@b.example"),
        (b'"a b"@b.example SIZE=1', b'"a b"@b.example'),
        (b'"a b@b.example', b'"a'),
        (b"", b""),
        (b"<a\x00\xff@b.example>", b"<a\x00\xff@b.example>"),
        ("<jörg@bücher.example>".encode(), "<jörg@bücher.example>".encode()),
    ],
)
def test_reverse_path_is_kept_as_sent(argument, path):
    client = said(b"MAIL FROM:" + argument + b"\r\n" + RCPT + b"DATA\r\n.\r\n")
    assert client.deliveries[0].reverse_path == path


@pytest.mark.parametrize("keyword", [b"FROM:", b"from:", b"From :", b"FROM: \t"])
def test_keyword_may_be_written_anyhow(keyword):
    assert replied(b"MAIL " + keyword + b"<a@b.example>").startswith(b"250")


@pytest.mark.parametrize(
    "path",
    [
        b"<%b@sink.example>",
        b"<%b@SINK.Example.>",
        b"%b@sink.example",
        b"<<%b@sink.example>>",
        b"< %b@sink.example >",
        b"<%b@sink.example>,",
        b'<"%b"@sink.example>',
        b'<"%b@sink.example">',
        b'"%b@sink.example"',
        b"<@relay.example:%b@sink.example>",
        b'<@relay.example,@[IPv6:2001:db8::1]:"%b"@sink.example>',
        b"<@[192.0.2.1]:%b@sink.example>",
    ],
)
@pytest.mark.parametrize("parameters", [b"", b" NOTIFY=NEVER ORCPT=rfc822;a@b.example"])
def test_recipient_is_found_however_it_is_written_and_kept_as_sent(path, parameters):
    path %= TOKEN
    client = said(MAIL + b"RCPT TO:" + path + parameters + b"\r\nDATA\r\n.\r\n")
    assert [recipient.forward_path for recipient in client.deliveries[0].recipients] == [path]


@pytest.mark.parametrize(
    "path",
    [
        b"<other@sink.example>",
        b"<%b@relay.example>",
        b"<%b@sink.example@relay.example>",
        b"<%b%%sink.example@relay.example>",
        b'<"%b@sink.example"@relay.example>',
        b"<sink.example!%b>",
        b"<%b>",
        b"<%b@>",
        b"<@sink.example:%b>",
        b"<>",
        b"",
        b"<@:>",
        b'"',
    ],
)
def test_recipient_elsewhere_or_nowhere_is_refused(path):
    path = path % TOKEN if b"%b" in path else path
    assert replied(b"RCPT TO:" + path, before=MAIL) == REFUSAL


def test_refusal_is_the_callers():
    refusal = b"554 5.7.1 Relay access denied"
    assert said(MAIL + b"RCPT TO:<a@b.example>\r\n", refusal=refusal).last == refusal


# ---- delivery


def test_delivery_says_all_about_the_envelope():
    client = said(
        b"EHLO [192.0.2.1] says hello\r\nMAIL FROM:<b@c.example>\r\n"
        + RCPT
        + b"RCPT TO:<other@sink.example>\r\nRCPT TO:"
        + TOKEN.upper()
        + b"@sink.example\r\nDATA\r\nx\r\n.\r\n"
    )
    delivery = client.deliveries[0]
    assert (
        delivery.helo,
        delivery.extended,
        delivery.reverse_path,
        delivery.recipients,
        delivery.message,
        delivery.size,
        delivery.truncated,
    ) == (
        b"[192.0.2.1] says hello",
        True,
        b"<b@c.example>",
        (
            Recipient(PATH, (TOKEN, b"sink.example")),
            Recipient(TOKEN.upper() + b"@sink.example", (TOKEN.upper(), b"sink.example")),
        ),
        b"x\r\n",
        3,
        False,
    )


@pytest.mark.parametrize(
    ("hello", "named"),
    [(b"HELO a.example\r\n", (b"a.example", False)), (b"", (b"", False))],
)
def test_delivery_needs_no_ehlo(hello, named):
    delivery = said(hello + MAIL + RCPT + b"DATA\r\n.\r\n").deliveries[0]
    assert (delivery.helo, delivery.extended) == named


@pytest.mark.parametrize(("store", "last"), [(True, b"250 2.0.0"), (False, b"451 4.3.0")])
def test_answer_to_a_message_is_the_stores(store, last):
    assert said(OPEN + b"x\r\n.\r\n", store=store).last.startswith(last)


@pytest.mark.parametrize("store", [True, False])
def test_transaction_is_over_after_a_message(store):
    client = said(OPEN + b"x\r\n.\r\n" + RCPT, store=store)
    assert client.codes[-1] == 503


def test_session_takes_one_message_after_another():
    client = said(2 * (OPEN + b"x\r\n.\r\n"))
    assert client.codes == 2 * [*OPENED, 250]


def test_input_waits_while_a_message_is_stored():
    client = said(OPEN + b"x\r\n.\r\nNOOP\r\n", store=None).say(b"VRFY a\r\n")
    assert (client.codes, client.session.storing) == (OPENED, True)


def test_input_that_waited_is_answered_after_the_message():
    client = said(OPEN + b"x\r\n.\r\nNOOP\r\n", store=None).say(b"VRFY a\r\n")
    client.perform(client.session.stored(True))
    assert client.codes == [*OPENED, 250, 250, 252]


def test_stored_means_nothing_where_nothing_is_being_stored():
    assert Client().session.stored(True) == []


def test_stored_means_nothing_after_a_dismissal():
    client = said(OPEN + b"x\r\n.\r\n", store=None)
    client.perform(client.session.dismiss(b"4.3.2 Shutting down"))
    assert client.session.stored(True) == []


def test_all_replies_to_one_input_are_one_write():
    session = Client().session
    assert len(session.receive(OPEN)) == 1


# ---- the end of a message


@pytest.mark.parametrize(
    "ending",
    [
        b"\n.\n",
        b"\n.\r\n",
        b"\r\n.\n",
        b"\r.\r",
        b"\r\n.\r",
        b"\r\n\x00.\r\n",
        b"\r.\r\n",
        b"\r\n.\x00\r\n",
        b"\r\n.\r\r\n",
        b"\r\r\n.\r\r\n",
        b"\n\r.\r\n",
        b"\r\n. \r\n",
        b"\r\n..\r\n",
    ],
)
def test_no_other_ending_smuggles_commands(ending):
    client = said(OPEN + b"one" + ending + MAIL + RCPT + b"DATA\r\ntwo\r\n.\r\n")
    assert (client.codes, len(client.deliveries)) == ([*OPENED, 250], 1)


@pytest.mark.parametrize("ending", [b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n\x00.\r\n", b"\r.\r\n"])
def test_what_looks_like_an_ending_is_kept_byte_for_byte(ending):
    message = b"one" + ending + b"two\r\n"
    assert said(OPEN + message + b".\r\n").deliveries[0].message == message


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b".\r\n", b""),
        (b"\r\n.\r\n", b"\r\n"),
        (b"..\r\n.\r\n", b".\r\n"),
        (b"...\r\n.\r\n", b"..\r\n"),
        (b".x\r\n.\r\n", b"x\r\n"),
        (b"a\r\n..\r\n..b\r\n.\r\n", b"a\r\n.\r\n.b\r\n"),
        (b"a.\r\n.\r\n", b"a.\r\n"),
        (b"\x00\xff\r\r\n\n\r\n.\r\n", b"\x00\xff\r\r\n\n\r\n"),
    ],
)
def test_message_is_unstuffed(sent, message):
    assert said(OPEN + sent).deliveries[0].message == message


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_empty_message_ends_at_its_first_line(end):
    assert said(MAIL + RCPT + b"DATA" + end + b".\r\n").codes == [250, 250, 354, 250]


# ---- limits


@pytest.mark.parametrize("surplus", [-1, 0, 1, 1000])
def test_message_beyond_the_limit_is_cut_and_counted(surplus):
    message = b"x" * (98 + surplus) + b"\r\n"
    client = said(OPEN + message + b".\r\n", limits=Limits(message_octets=100))
    delivery = client.deliveries[0]
    assert (delivery.message, delivery.size, delivery.truncated, client.codes[-1]) == (
        message[:100],
        len(message),
        surplus > 0,
        250,
    )


@pytest.mark.parametrize("content", [b"x" * 1000, b"\r\n" * 500, b"\r\n.." * 300, b"\r" * 1000])
def test_endless_message_holds_no_more_than_the_limit(content):
    client = said(OPEN, limits=Limits(message_octets=5000, session_octets=1 << 20))
    while not client.closed:
        client.say(content)
    assert (client.most_held <= 5000 + 2 + 4, client.last) == (True, b"421 4.7.0 Too much input")


def test_endless_line_holds_no_more_than_the_limit():
    client = Client(Limits(line_octets=4096, session_octets=1 << 20))
    while not client.closed:
        client.say(b"x" * 1000)
    assert (client.most_held < 4096, client.codes) == (True, [421])


@pytest.mark.parametrize(("octets", "code"), [(1000, 250), (1001, 500)])
@pytest.mark.parametrize("cut", [1, 999, 1000, 1001, 5000])
def test_longest_command_line(octets, code, cut):
    line = b"NOOP ".ljust(octets - 2, b"x") + b"\r\n"
    client = Client(Limits(line_octets=1000))
    for start in range(0, len(line), cut):
        client.say(line[start : start + cut])
    assert client.codes == [code]


def test_commands_after_a_line_too_long_are_obeyed():
    assert said(b"x" * 5000 + b"\r\nNOOP\r\n").codes == [500, 250]


@pytest.mark.parametrize("line", [b"what\r\n", b"x" * 5000 + b"\r\n", b"DATA\r\n", b"AUTH\r\n"])
def test_too_many_errors_end_the_session(line):
    client = said(4 * line, limits=Limits(errors=3))
    assert (client.codes[-1], len(client.codes), client.closed) == (421, 4, True)


def test_refused_recipients_are_no_errors():
    client = said(MAIL + 9 * b"RCPT TO:<a@b.example>\r\n" + RCPT, limits=Limits(errors=3))
    assert client.codes[-1] == 250


def test_too_many_commands_end_the_session():
    client = said(4 * b"NOOP\r\n", limits=Limits(commands=3))
    assert (client.codes, client.closed) == ([250, 250, 250, 421], True)


def test_recipients_beyond_the_limit_are_put_off():
    client = said(MAIL + 3 * RCPT + b"DATA\r\n.\r\n", limits=Limits(recipients=2))
    assert (client.codes, len(client.deliveries[0].recipients)) == (
        [250, 250, 250, 452, 354, 250],
        2,
    )


def test_input_beyond_the_limit_ends_the_session_after_what_came_before_it():
    client = said(4 * b"NOOP\r\n", limits=Limits(session_octets=20)).say(b"NOOP\r\n")
    assert (client.codes, client.closed) == ([250, 250, 250, 421], True)


def test_quit_at_the_limit_is_a_quit():
    assert said(b"QUIT\r\nNOOP\r\n", limits=Limits(session_octets=6)).codes == [221]


@pytest.mark.parametrize("rest", [b"", b"x" * 200])
def test_input_beyond_the_backlog_is_dropped_and_the_message_still_answered(rest):
    client = said(OPEN + b"x\r\n.\r\n" + rest, limits=Limits(backlog_octets=100), store=None)
    client.say(b"y" * 101)
    held = client.session.held_octets
    client.perform(client.session.stored(True))
    assert (held, client.codes, client.closed) == (max(100, len(rest)), [*OPENED, 250, 421], True)


@pytest.mark.parametrize(
    "path",
    [b'"\\' * 2000, b'<"' * 2000, b'<"\\"' * 1000, b'@[":' * 1000, b"<" + b'""' * 2000],
    ids=lambda path: path[:6].decode(),
)
def test_path_that_invites_backtracking_is_refused_like_any_other(path):
    assert replied(b"RCPT TO:" + path, before=MAIL) == REFUSAL


# ---- any input, cut anyhow

FRAGMENTS = st.sampled_from(
    [
        b"\r\n",
        b"\n",
        b"\r",
        b".",
        b"\r\n.\r\n",
        b"..",
        b"x",
        b"\x00",
        b"\xff",
        b'"',
        b"<",
        b"@",
        b" ",
        OPEN,
        MAIL,
        RCPT,
        b"DATA\r\n",
        b"RSET\r\n",
        b"QUIT\r\n",
        b"EHLO a\r\n",
        b"MAIL FROM:",
        b"RCPT TO:<@a:",
        b"y" * 70,
    ]
)
STREAMS = st.one_of(st.lists(FRAGMENTS, max_size=40).map(b"".join), st.binary(max_size=300))
TIGHT = Limits(
    message_octets=64,
    recipients=2,
    line_octets=64,
    commands=30,
    errors=5,
    session_octets=1500,
    backlog_octets=4000,
)


def outcome(client):
    return bytes(client.wire), client.deliveries, client.closed


@settings(derandomize=True, deadline=None, max_examples=300)
@given(stream=STREAMS, cuts=st.lists(st.integers(0, 1500)), store=st.booleans())
def test_any_cut_of_the_input_gives_the_same(stream, cuts, store):
    stream = OPEN + stream
    places = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    pieces = Client(TIGHT, store)
    for start, end in itertools.pairwise(places):
        pieces.say(stream[start:end])
    octets = Client(TIGHT, store)
    for place in range(len(stream)):
        octets.say(stream[place : place + 1])
    whole = Client(TIGHT, store).say(stream)
    assert outcome(pieces) == outcome(octets) == outcome(whole)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(stream=st.lists(STREAMS, max_size=5))
def test_whatever_comes_the_answers_are_short_ascii_lines(stream):
    client = Client(TIGHT)
    for piece in stream:
        client.say(piece)
    lines = bytes(client.wire).split(b"\r\n")
    assert lines.pop() == b""
    assert len(lines) <= 7 * (TIGHT.commands + 1)
    assert all(re.fullmatch(rb"[2345]\d\d[ -][ -~]{1,506}", line) for line in lines)
    assert client.session.held_octets <= TIGHT.message_octets + 2 + TIGHT.line_octets


@settings(derandomize=True, deadline=None, max_examples=300)
@given(stream=STREAMS)
def test_unstuffing_undoes_stuffing(stream):
    message = stream + b"\r\n"
    stuffed = (b"\r\n" + message).replace(b"\r\n.", b"\r\n..")[2:]
    assert said(OPEN + stuffed + b".\r\n").deliveries[0].message == message


def test_name_of_255_octets_leaves_every_line_within_512():
    session = Session(b"n" * 255, Limits(), policy)
    octets = session.greeting()
    for action in session.receive(OPEN + b".\r\n"):
        octets += action.octets if isinstance(action, Write) else b""
    assert max(len(line) + 2 for line in octets.split(b"\r\n")) <= 512
