"""What is said next, and what is made of the answers: scripted replies, no sockets."""

from dataclasses import replace

import pytest

from relaytest.core.dialogue import (
    Answers,
    Break,
    Broken,
    Content,
    Farewell,
    Got,
    Greeting,
    Hello,
    Offer,
    Outcome,
    Send,
    Step,
    ask,
    greet,
    hold,
    part,
)
from relaytest.core.probe import Envelope
from relaytest.core.reply import Reply

OK = Reply(250, ("Ok",))  # on purpose one object for all: only its place may count
NO = Reply(550, ("5.7.1 Relaying denied",))
LATER = Reply(451, ("4.7.1 Greylisted",))
BAD_ORDER = Reply(503, ("Bad sequence of commands",))
UNKNOWN = Reply(502, ("What?",))
AHEAD = Reply(354, ("Go ahead",))
HANG_UP = Reply(421, ("Too many errors",))
READY = Reply(220, ("mx.example ESMTP",))
EHLO = Reply(250, ("mx.example", "SIZE 10240000", "PIPELINING"))

CLOSED = Broken(Break.CLOSED, "the server closed the connection")
TIMEOUT = Broken(Break.TIMEOUT, "no reply")
DESYNC = Broken(Break.DESYNC, "a reply came that no command waited for")
GARBAGE = Broken(Break.GARBAGE, "no SMTP reply")


def got(*replies, broken=None):
    return Got(replies, broken)


def play(dialogue, *script):
    """Feed a script to a dialogue; return its moves and its result. The script must be used up."""
    moves = []
    try:
        moves.append(next(dialogue))
        for answer in script:
            moves += [dialogue.send(answer)]
    except StopIteration as end:
        assert len(moves) == len(script), "the dialogue ended before the script"
        return moves, end.value
    pytest.fail(f"the dialogue wants more: {moves[-1]}")


def offer(form, message=None):
    return Offer(form, Envelope(b"<s%d@a.example>" % form, b"<r%d@b.example>" % form), message)


def mail(form):
    return b"MAIL FROM:<s%d@a.example>" % form


def rcpt(form):
    return b"RCPT TO:<r%d@b.example>" % form


def group(*forms):
    return Send(tuple(line for form in forms for line in (mail(form), rcpt(form), b"RSET")))


def ends(answers):
    """The outcomes, short."""
    return [(one.form, one.step, one.reply and one.reply.code) for one in answers.outcomes]


# ---- greet


def test_we_wait_for_the_greeting_then_say_ehlo():
    moves, hello = play(greet(b"probe.example"), got(READY), got(EHLO))
    assert moves == [Greeting(), Send((b"EHLO probe.example",))]
    assert hello == Hello(READY, EHLO, b"EHLO", None)
    assert hello.welcome
    assert hello.pipelining


@pytest.mark.parametrize("code", [500, 501, 502, 504, 550, 554])
def test_helo_is_said_where_ehlo_is_refused_for_good(code):
    refusal = Reply(code, ("What?",))
    moves, hello = play(greet(b"p.example"), got(READY), got(refusal), got(OK))
    assert moves[1:] == [Send((b"EHLO p.example",)), Send((b"HELO p.example",))]
    assert hello == Hello(READY, OK, b"HELO", None)
    assert hello.welcome
    assert not hello.pipelining


def test_a_server_may_refuse_both():
    _, hello = play(greet(b"p.example"), got(READY), got(UNKNOWN), got(NO))
    assert hello == Hello(READY, NO, b"HELO", None)
    assert not hello.welcome


@pytest.mark.parametrize("reply", [LATER, HANG_UP, AHEAD], ids=str)
def test_helo_is_not_said_where_ehlo_is_not_refused_for_good(reply):
    moves, hello = play(greet(b"p.example"), got(READY), got(reply))
    assert len(moves) == 2
    assert hello == Hello(READY, reply)
    assert not hello.welcome
    assert not hello.pipelining


@pytest.mark.parametrize("reply", [NO, HANG_UP, LATER, OK, AHEAD, Reply(221, ("Bye",))], ids=str)
def test_only_220_is_a_greeting(reply):
    moves, hello = play(greet(b"p.example"), got(reply))
    assert moves == [Greeting()]
    assert hello == Hello(reply)
    assert not hello.welcome


@pytest.mark.parametrize("broken", [CLOSED, TIMEOUT, GARBAGE], ids=lambda one: one.kind.value)
def test_no_greeting_comes(broken):
    moves, hello = play(greet(b"p.example"), got(broken=broken))
    assert moves == [Greeting()]
    assert hello == Hello(None, broken=broken)
    assert not hello.welcome


def test_nothing_is_said_on_a_connection_that_broke_right_after_the_greeting():
    moves, hello = play(greet(b"p.example"), got(READY, broken=DESYNC))
    assert moves == [Greeting()]
    assert hello == Hello(READY, broken=DESYNC)


def test_the_connection_breaks_at_ehlo():
    _, hello = play(greet(b"p.example"), got(READY), got(broken=CLOSED))
    assert hello == Hello(READY, None, b"EHLO", CLOSED)
    assert not hello.welcome
    assert not hello.pipelining


def test_the_connection_breaks_at_helo():
    _, hello = play(greet(b"p.example"), got(READY), got(UNKNOWN), got(broken=CLOSED))
    assert hello == Hello(READY, None, b"HELO", CLOSED)


@pytest.mark.parametrize("reply", [EHLO, UNKNOWN], ids=str)
def test_a_surplus_reply_after_ehlo_makes_us_unwelcome(reply):
    moves, hello = play(greet(b"p.example"), got(READY), got(reply, broken=DESYNC))
    assert len(moves) == 2
    assert hello == Hello(READY, reply, b"EHLO", DESYNC)
    assert not hello.welcome


@pytest.mark.parametrize(
    ("lines", "announced"),
    [
        (("mx", "PIPELINING"), True),
        (("mx", "SIZE", "pipelining"), True),
        (("mx", "PIPELINING x"), True),
        (("PIPELINING",), False),
        (("PIPELINING", "SIZE"), False),
        (("mx", "XPIPELINING"), False),
        (("mx", "X-PIPELINING PIPELINING"), False),
        (("mx",), False),
    ],
)
def test_pipelining_is_a_keyword_after_the_first_line(lines, announced):
    assert Hello(READY, Reply(250, lines)).pipelining is announced


def test_keywords_are_the_first_words_after_the_first_line_in_upper_case():
    reply = Reply(250, ("mx.shop.example", "Auth PLAIN LOGIN", "SIZE 1000", "dsn", ""))
    assert Hello(READY, reply).keywords == {"AUTH", "SIZE", "DSN", ""}


def test_no_keywords_without_a_positive_reply_to_ehlo():
    assert Hello(READY, replace(EHLO, code=550)).keywords == frozenset()
    assert Hello(READY, EHLO, b"HELO").keywords == frozenset()
    assert Hello(READY).keywords == frozenset()


def test_pipelining_counts_only_in_a_positive_reply_to_ehlo():
    assert not Hello(READY, replace(EHLO, code=550)).pipelining
    assert not Hello(READY, EHLO, b"HELO").pipelining


# ---- ask: refusals and acceptances, pipelined


def test_all_forms_go_out_in_one_group():
    script = got(OK, NO, OK, NO, BAD_ORDER, OK, OK, OK, OK)
    moves, answers = play(ask([offer(1), offer(2), offer(3)], pipelining=True), script)
    assert moves == [group(1, 2, 3)]
    assert answers == Answers(
        [Outcome(1, Step.RCPT, NO), Outcome(2, Step.MAIL, NO), Outcome(3, Step.RCPT, OK)]
    )


def test_a_recipient_that_was_accepted_is_willing_even_if_all_replies_are_alike():
    _, answers = play(ask([offer(1)], pipelining=True), got(OK, OK, OK))
    assert ends(answers) == [(1, Step.RCPT, 250)]
    assert answers.outcomes[0].willing
    assert not answers.outcomes[0].message_sent


@pytest.mark.parametrize("pipelining", [True, False])
def test_nothing_to_ask(pipelining):
    assert play(ask([], pipelining=pipelining)) == ([], Answers())


@pytest.mark.parametrize("refusal", [LATER, NO, UNKNOWN], ids=str)
@pytest.mark.parametrize("pipelining", [True, False])
def test_the_first_refusal_is_the_answer(refusal, pipelining):
    script = [got(refusal, NO, OK)] if pipelining else [got(refusal), got(OK)]
    _, answers = play(ask([offer(1)], pipelining=pipelining), *script)
    assert answers.outcomes == [Outcome(1, Step.MAIL, refusal)]
    assert not answers.outcomes[0].willing


def test_an_answer_counts_only_if_its_rset_was_answered_2yz():
    """Here MAIL of form 2 was answered twice: form 2 has no answer, nor has form 3."""
    script = got(OK, NO, OK, OK, OK, NO, OK, OK, NO, broken=DESYNC)
    _, answers = play(ask([offer(1), offer(2), offer(3)], pipelining=True), script)
    assert ends(answers) == [(1, Step.RCPT, 550)]
    assert answers.hung_up
    assert answers.broken == DESYNC


def test_after_a_refused_rset_no_message_follows_the_group():
    """The recipient just accepted would get the next form's message as well."""
    script = got(OK, OK, UNKNOWN)
    moves, answers = play(ask([offer(1), offer(2, b"x")], pipelining=True), script)
    assert moves == [group(1)]
    assert answers == Answers([], None, hung_up=True)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5])
def test_a_group_that_broke_keeps_the_forms_answered_whole(count):
    replies = [OK, NO, OK, OK, NO, OK][:count]
    script = got(*replies, broken=TIMEOUT)
    _, answers = play(ask([offer(1), offer(2)], pipelining=True), script)
    assert ends(answers) == [(1, Step.RCPT, 550)] * (count // 3)
    assert answers.broken == TIMEOUT
    assert not answers.hung_up


@pytest.mark.parametrize("place", [0, 1, 2])
def test_421_ends_the_session_wherever_it_stands_in_a_group(place):
    replies = [OK, NO, OK, *[OK, NO, OK][:place], HANG_UP]
    script = got(*replies, broken=CLOSED)
    _, answers = play(ask([offer(1), offer(2), offer(3)], pipelining=True), script)
    assert ends(answers) == [(1, Step.RCPT, 550)]
    assert answers.hung_up
    assert answers.broken == CLOSED


def test_421_in_a_whole_group_hides_what_stands_behind_it():
    script = got(HANG_UP, NO, OK, OK, OK, OK)
    moves, answers = play(ask([offer(1), offer(2), offer(3, b"x")], pipelining=True), script)
    assert len(moves) == 1
    assert answers == Answers([], None, hung_up=True)


# ---- ask: the 503 rule


def test_503_is_an_answer_in_a_fresh_session():
    _, answers = play(ask([offer(1)], pipelining=True), got(BAD_ORDER, BAD_ORDER, OK))
    assert answers.outcomes == [Outcome(1, Step.MAIL, BAD_ORDER)]


def test_503_is_no_answer_later_in_a_group():
    script = got(OK, NO, OK, BAD_ORDER, BAD_ORDER, OK, OK, NO, OK)
    _, answers = play(ask([offer(1), offer(2), offer(3)], pipelining=True), script)
    assert ends(answers) == [(1, Step.RCPT, 550), (3, Step.RCPT, 550)]


def test_503_is_no_answer_later_one_at_a_time():
    script = [got(OK), got(NO), got(OK), got(BAD_ORDER), got(OK)]
    moves, answers = play(ask([offer(1), offer(2)], pipelining=False), *script)
    assert moves[3:] == [Send((mail(2),)), Send((b"RSET",))]
    assert ends(answers) == [(1, Step.RCPT, 550)]


def test_503_to_a_recipient_is_an_answer_anywhere():
    """MAIL was taken, so the session is in order: it is the recipient that is refused."""
    script = got(OK, NO, OK, OK, BAD_ORDER, OK)
    _, answers = play(ask([offer(1), offer(2)], pipelining=True), script)
    assert ends(answers) == [(1, Step.RCPT, 550), (2, Step.RCPT, 503)]


def test_503_is_an_answer_to_the_first_of_several_one_at_a_time():
    script = [got(OK), got(BAD_ORDER), got(OK), got(OK), got(NO), got(OK)]
    _, answers = play(ask([offer(1), offer(2)], pipelining=False), *script)
    assert ends(answers) == [(1, Step.RCPT, 503), (2, Step.RCPT, 550)]


def test_a_group_after_a_message_is_no_fresh_session():
    script = [got(NO, NO, NO), got(OK), got(BAD_ORDER, BAD_ORDER, OK)]
    _, answers = play(ask([offer(1, b"x"), offer(2)], pipelining=True), *script)
    assert ends(answers) == [(1, Step.MAIL, 550)]


def test_a_server_that_wants_tls_for_rset_too_has_answered():
    """Postfix with smtpd_tls_security_level = encrypt."""
    wants_tls = Reply(530, ("5.7.0 Must issue a STARTTLS command first",))
    script = got(*[wants_tls] * 6)
    _, answers = play(ask([offer(1), offer(2)], pipelining=True), script)
    assert (ends(answers), answers.hung_up) == ([(1, Step.MAIL, 530)], True)


# ---- ask: one at a time


def test_one_at_a_time_each_command_waits_for_its_reply():
    script = [got(OK), got(NO), got(OK), got(NO), got(OK), got(OK), got(OK), got(OK)]
    moves, answers = play(ask([offer(1), offer(2), offer(3)], pipelining=False), *script)
    lines = [mail(1), rcpt(1), b"RSET", mail(2), b"RSET", mail(3), rcpt(3), b"RSET"]
    assert moves == [Send((line,)) for line in lines]
    assert ends(answers) == [(1, Step.RCPT, 550), (2, Step.MAIL, 550), (3, Step.RCPT, 250)]


@pytest.mark.parametrize("whole", [0, 1])
def test_one_at_a_time_a_break_ends_it(whole):
    script = [*[got(OK)] * whole, got(broken=CLOSED)]
    _, answers = play(ask([offer(1), offer(2)], pipelining=False), *script)
    assert answers == Answers([], CLOSED)


@pytest.mark.parametrize(
    ("broken", "kept"), [(CLOSED, [(1, Step.RCPT, 550)]), (TIMEOUT, []), (DESYNC, [])]
)
def test_one_at_a_time_a_close_instead_of_the_reply_to_rset_takes_nothing_back(broken, kept):
    script = [got(OK), got(NO), got(broken=broken)]
    _, answers = play(ask([offer(1), offer(2)], pipelining=False), *script)
    assert (ends(answers), answers.broken) == (kept, broken)


@pytest.mark.parametrize("whole", [0, 1, 2])
def test_one_at_a_time_421_ends_it(whole):
    script = [*[got(OK)] * whole, got(HANG_UP)]
    _, answers = play(ask([offer(1), offer(2)], pipelining=False), *script)
    assert answers == Answers([], None, hung_up=True)


def test_one_at_a_time_a_surplus_reply_ends_it():
    _, answers = play(ask([offer(1)], pipelining=False), got(OK, broken=DESYNC))
    assert answers == Answers([], DESYNC)


def test_one_at_a_time_a_refused_rset_ends_the_session_but_the_answer_stands():
    script = [got(OK), got(NO), got(UNKNOWN)]
    _, answers = play(ask([offer(1), offer(2)], pipelining=False), *script)
    assert answers == Answers([Outcome(1, Step.RCPT, NO)], None, hung_up=True)


# ---- ask: with a message


MESSAGE = b"Subject: probe\r\n\r\nHello.\r\n"


def test_pipelined_a_message_takes_two_writes():
    script = [got(OK, OK, AHEAD), got(OK)]
    moves, answers = play(ask([offer(1, MESSAGE)], pipelining=True), *script)
    assert moves == [Send((mail(1), rcpt(1), b"DATA")), Content(MESSAGE)]
    assert answers == Answers([Outcome(1, Step.END_OF_DATA, OK)])
    assert answers.outcomes[0].message_sent
    assert not answers.outcomes[0].willing


def test_one_at_a_time_a_message_takes_four():
    script = [got(OK), got(OK), got(AHEAD), got(OK)]
    moves, answers = play(ask([offer(1, MESSAGE)], pipelining=False), *script)
    lines = (mail(1), rcpt(1), b"DATA")
    assert moves == [*(Send((line,)) for line in lines), Content(MESSAGE)]
    assert ends(answers) == [(1, Step.END_OF_DATA, 250)]


def test_a_message_may_be_refused_after_the_dot():
    script = [got(OK, OK, AHEAD), got(NO)]
    _, answers = play(ask([offer(1, MESSAGE)], pipelining=True), *script)
    assert answers.outcomes == [Outcome(1, Step.END_OF_DATA, NO)]
    assert answers.outcomes[0].message_sent


@pytest.mark.parametrize("broken", [TIMEOUT, CLOSED], ids=lambda one: one.kind.value)
def test_no_answer_to_the_dot_leaves_open_whether_it_is_relayed(broken):
    script = [got(OK, OK, AHEAD), got(broken=broken)]
    _, answers = play(ask([offer(1, MESSAGE), offer(2, MESSAGE)], pipelining=True), *script)
    assert answers == Answers([Outcome(1, Step.END_OF_DATA, None)], broken)
    assert answers.outcomes[0].message_sent
    assert not answers.outcomes[0].willing


@pytest.mark.parametrize("broken", [DESYNC, GARBAGE], ids=lambda one: one.kind.value)
@pytest.mark.parametrize("replies", [(), (OK,)], ids=["no-reply", "reply"])
def test_no_answer_is_taken_from_a_dot_whose_reply_cannot_be_told(broken, replies):
    """But the message went out, and if it comes back, that counts."""
    script = [got(OK, OK, AHEAD), got(*replies, broken=broken)]
    _, answers = play(ask([offer(1, MESSAGE)], pipelining=True), *script)
    assert answers == Answers([Outcome(1, Step.END_OF_DATA, None)], broken)


def test_a_surplus_reply_after_the_dot_leaves_of_it_that_the_message_went_out():
    taken = [got(OK), got(OK), got(AHEAD), got(OK)]
    script = [*taken, got(OK), got(NO), got(OK), got(broken=DESYNC)]
    _, answers = play(hold([offer(1, MESSAGE), offer(2)], pipelining=False), *script)
    assert answers.outcomes == [Outcome(1, Step.END_OF_DATA, None)]


def test_421_to_the_dot_is_an_answer_and_the_end():
    script = [got(OK, OK, AHEAD), got(HANG_UP)]
    _, answers = play(ask([offer(1, MESSAGE), offer(2)], pipelining=True), *script)
    assert answers == Answers([Outcome(1, Step.END_OF_DATA, HANG_UP)], None, hung_up=True)


@pytest.mark.parametrize(
    ("replies", "step", "reply"),
    [
        ((OK, NO, UNKNOWN), Step.RCPT, NO),
        ((NO, BAD_ORDER, BAD_ORDER), Step.MAIL, NO),
        ((OK, OK, NO), Step.DATA, NO),
        ((OK, OK, OK), Step.DATA, OK),
    ],
    ids=["rcpt", "mail", "data", "data-250"],
)
def test_a_transaction_refused_on_the_way_is_reset(replies, step, reply):
    moves, answers = play(ask([offer(1, MESSAGE)], pipelining=True), got(*replies), got(OK))
    assert moves[1:] == [Send((b"RSET",))]
    assert answers.outcomes == [Outcome(1, step, reply)]


def test_data_accepted_after_a_refused_recipient_gets_an_empty_message():
    """RFC 2920 section 3.1. Never ours: it might go to whom we have not offered it for."""
    script = [got(OK, NO, AHEAD), got(Reply(554, ("No valid recipients",))), got(OK, NO, OK)]
    moves, answers = play(ask([offer(1, MESSAGE), offer(2)], pipelining=True), *script)
    assert moves[1:] == [Content(b""), group(2)]
    assert answers.outcomes == [Outcome(1, Step.RCPT, NO), Outcome(2, Step.RCPT, NO)]


def test_data_accepted_after_a_refused_sender_gets_an_empty_message():
    script = [got(NO, OK, AHEAD), got(OK)]
    moves, answers = play(ask([offer(1, MESSAGE)], pipelining=True), *script)
    assert moves[1:] == [Content(b"")]
    assert answers.outcomes == [Outcome(1, Step.MAIL, NO)]


@pytest.mark.parametrize("reply", [HANG_UP, None], ids=str)
def test_the_session_may_end_at_the_empty_message(reply):
    last = got(broken=CLOSED) if reply is None else got(reply)
    script = [got(OK, NO, AHEAD), last]
    _, answers = play(ask([offer(1, MESSAGE), offer(2)], pipelining=True), *script)
    assert answers.outcomes == [Outcome(1, Step.RCPT, NO)]
    assert answers.hung_up is (reply is HANG_UP)
    assert answers.broken == last.broken


def test_pipelined_a_break_before_354_leaves_no_answer():
    script = got(OK, OK, broken=TIMEOUT)
    _, answers = play(ask([offer(1, MESSAGE)], pipelining=True), script)
    assert answers == Answers([], TIMEOUT)


def test_pipelined_a_refused_rset_ends_the_session_but_the_answer_stands():
    script = [got(OK, NO, NO), got(UNKNOWN)]
    _, answers = play(ask([offer(1, MESSAGE), offer(2)], pipelining=True), *script)
    assert answers == Answers([Outcome(1, Step.RCPT, NO)], None, hung_up=True)


@pytest.mark.parametrize("last", [got(HANG_UP), got(broken=CLOSED), got(OK, broken=DESYNC)])
def test_an_answer_whose_rset_is_not_answered_does_not_count(last):
    script = [got(OK, NO, NO), last]
    _, answers = play(ask([offer(1, MESSAGE), offer(2)], pipelining=True), *script)
    assert answers.outcomes == []
    assert answers.broken == last.broken


def test_offers_with_and_without_a_message_keep_their_order_and_none_is_asked_twice():
    offers = [offer(1), offer(2, MESSAGE), offer(3), offer(4), offer(5, MESSAGE)]
    form = [OK, NO, OK]
    script = [got(*form), got(OK, OK, AHEAD), got(OK), got(*form, *form), got(OK, NO, NO), got(OK)]
    moves, answers = play(ask(offers, pipelining=True), *script)
    assert moves == [
        group(1),
        Send((mail(2), rcpt(2), b"DATA")),
        Content(MESSAGE),
        group(3, 4),
        Send((mail(5), rcpt(5), b"DATA")),
        Send((b"RSET",)),
    ]
    assert [one.form for one in answers.outcomes] == [1, 2, 3, 4, 5]


# ---- part


def kept():
    return Answers([Outcome(1, Step.RCPT, NO)])


def test_parting_says_quit_and_keeps_the_answers():
    moves, answers = play(part(kept()), got(Reply(221, ("Bye",))))
    assert moves == [Farewell()]
    assert answers == replace(kept(), parted=True)


def test_a_server_that_closes_at_quit_has_done_no_harm():
    assert play(part(kept()), got())[1] == replace(kept(), parted=True)


@pytest.mark.parametrize("broken", [DESYNC, GARBAGE], ids=lambda one: one.kind.value)
def test_a_surplus_reply_at_the_end_voids_all_answers(broken):
    _, answers = play(part(kept()), got(Reply(221, ("Bye",)), broken=broken))
    assert answers == Answers([], broken, parted=True)


def test_a_server_mute_at_quit_leaves_the_answers():
    _, answers = play(part(kept()), got(broken=TIMEOUT))
    assert answers == replace(kept(), broken=TIMEOUT, parted=True)


@pytest.mark.parametrize("broken", [DESYNC, GARBAGE], ids=lambda one: one.kind.value)
def test_answers_of_a_session_that_lost_step_are_void_without_a_farewell(broken):
    assert play(part(replace(kept(), broken=broken))) == ([], Answers([], broken))


@pytest.mark.parametrize("broken", [TIMEOUT, CLOSED], ids=lambda one: one.kind.value)
def test_answers_of_a_session_that_just_ended_stand_without_a_farewell(broken):
    answers = replace(kept(), broken=broken)
    assert play(part(answers)) == ([], answers)


def test_quit_is_said_after_a_421_too():
    moves, _ = play(part(Answers([], None, hung_up=True)), got())
    assert moves == [Farewell()]


@pytest.mark.parametrize(
    ("outcome", "willing", "sent"),
    [
        (Outcome(1, Step.RCPT, OK), True, False),
        (Outcome(1, Step.RCPT, NO), False, False),
        (Outcome(1, Step.RCPT, LATER), False, False),
        (Outcome(1, Step.RCPT, None), False, False),
        (Outcome(1, Step.MAIL, OK), False, False),
        (Outcome(1, Step.DATA, OK), False, False),
        (Outcome(1, Step.END_OF_DATA, OK), False, True),
        (Outcome(1, Step.END_OF_DATA, NO), False, True),
        (Outcome(1, Step.END_OF_DATA, None), False, True),
    ],
)
def test_willing_and_sent(outcome, willing, sent):
    assert (outcome.willing, outcome.message_sent) == (willing, sent)


# ---- hold


def test_quit_goes_out_with_the_last_group():
    moves, answers = play(
        hold([offer(1), offer(2)], pipelining=True),
        got(OK, NO, OK, OK, OK, OK, Reply(221, ("Bye",))),
    )
    assert moves == [Farewell(group(1, 2).lines)]
    assert ends(answers) == [(1, Step.RCPT, 550), (2, Step.RCPT, 250)]
    assert answers.parted


def test_quit_waits_for_its_own_turn_where_a_message_comes_last():
    moves, answers = play(
        hold([offer(1), offer(2, b"x")], pipelining=True),
        got(OK, NO, OK),
        got(OK, OK, AHEAD),
        got(OK),
        got(Reply(221, ("Bye",))),
    )
    assert moves[0] == group(1)
    assert moves[-1] == Farewell()
    assert ends(answers) == [(1, Step.RCPT, 550), (2, Step.END_OF_DATA, 250)]


def test_quit_waits_for_its_own_turn_without_pipelining():
    moves, _ = play(
        hold([offer(1)], pipelining=False), got(OK), got(NO), got(OK), got(Reply(221, ("Bye",)))
    )
    assert moves[-1] == Farewell()


@pytest.mark.parametrize("broken", [DESYNC, GARBAGE], ids=lambda one: one.kind.value)
def test_a_surplus_reply_after_a_group_with_quit_voids_all_answers(broken):
    script = got(OK, NO, OK, Reply(221, ("Bye",)), broken=broken)
    _, answers = play(hold([offer(1)], pipelining=True), script)
    assert answers.outcomes == []


def test_a_hang_up_in_a_group_with_quit_keeps_the_answers_before_it():
    script = got(OK, NO, OK, HANG_UP, broken=CLOSED)
    _, answers = play(hold([offer(1), offer(2)], pipelining=True), script)
    assert ends(answers) == [(1, Step.RCPT, 550)]
    assert answers.hung_up
