"""What to say to the tested server next. No sockets here.

A dialogue is a generator: it yields a Move, is sent what came back (Got), and returns its
result. net.smtp_client drives it over TCP; tests drive it with `dialogue.send(Got(...))`.

Rule: whatever decides the next command lives in this file, and nothing else does.

Pairing: replies belong to commands by position only (RFC 2920 section 3.1), so one reply too
many shifts all that follow. In a pipelined group a form's answer therefore counts only when the
RSET after it was answered 2yz, and a connection on which a reply came that nobody had asked for
is void as a whole (Break.DESYNC): not one of its answers is kept.
"""

import enum
import itertools
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from relaytest.core.probe import Envelope
from relaytest.core.reply import Reply

_HELLOS = (b"EHLO", b"HELO")


class Step(enum.Enum):
    """Where in a mail transaction the server gave its last word."""

    HELLO = "hello"  # of a session in which we went by another name than ours
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    END_OF_DATA = "end-of-data"


class Break(enum.Enum):
    """How a connection ended before its dialogue did."""

    REFUSED = "refused"  # TCP: nobody listens, or we are turned away
    UNREACHABLE = "unreachable"  # no route, or no answer to the SYN
    TIMEOUT = "timeout"  # a reply did not come in time
    CLOSED = "closed"  # the server hung up
    GARBAGE = "garbage"  # what came is no SMTP reply
    DESYNC = "desync"  # a reply came that no command was waiting for
    TLS = "tls"  # no TLS session came about


@dataclass(frozen=True, slots=True)
class Broken:
    """The end of a connection that broke.

    Attributes:
        text: One sentence for the transcript and the evidence page.
    """

    kind: Break
    text: str


@dataclass(frozen=True, slots=True)
class Greeting:
    """Move: say nothing, wait for the greeting (RFC 5321 section 3.1)."""


@dataclass(frozen=True, slots=True)
class Send:
    """Move: write all lines at once and wait for one reply to each. Lines without CRLF."""

    lines: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Content:
    """Move: a whole message after 354. The transport adds transparency and the final dot."""

    message: bytes


@dataclass(frozen=True, slots=True)
class Farewell:
    """Move: lines as in Send, and QUIT behind them; then wait until the server closes.

    So it is seen that nothing follows its 221. It may also close instead of answering QUIT.
    """

    lines: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Secure:
    """Move: begin TLS now; no reply belongs to it."""


Move = Greeting | Send | Content | Farewell | Secure


@dataclass(frozen=True, slots=True)
class Got:
    """What came back after a Move.

    Attributes:
        replies: In order. Fewer than were asked for only if `broken` is set.
        broken: The connection is gone; no further Move is possible.
    """

    replies: tuple[Reply, ...]
    broken: Broken | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """One transaction to try.

    Attributes:
        form: Number of the form, or probe.CONTROL.
        message: What to send after 354; None to ask about the recipient only.
    """

    form: int
    envelope: Envelope
    message: bytes | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one transaction ended.

    Attributes:
        step: The last step reached.
        reply: The server's last word there. None only at END_OF_DATA: the message went out
            and no answer came, so it may be relayed all the same.
    """

    form: int
    step: Step
    reply: Reply | None

    @property
    def message_sent(self) -> bool:
        """The whole message was handed over, whatever the server said to it."""
        return self.step is Step.END_OF_DATA

    @property
    def willing(self) -> bool:
        """The recipient was accepted and no message was offered. No proof of anything yet."""
        return self.step is Step.RCPT and self.reply is not None and self.reply.positive


@dataclass(frozen=True, slots=True)
class Hello:
    """How the server met us.

    Attributes:
        greeting: Its first reply, or None if none came.
        reply: Its reply to EHLO, or to HELO where EHLO was refused; None if none came.
        verb: b"EHLO" or b"HELO", whichever `reply` answers.
        broken: The connection broke on the way.
    """

    greeting: Reply | None
    reply: Reply | None = None
    verb: bytes = b"EHLO"
    broken: Broken | None = None

    @property
    def welcome(self) -> bool:
        """We may send mail commands."""
        return self.broken is None and self.reply is not None and self.reply.positive

    @property
    def refused(self) -> bool:
        """It did not like the name we gave."""
        return self.reply is not None and not self.reply.positive and self.verb != b"STARTTLS"

    @property
    def keywords(self) -> frozenset[str]:
        """What the server announced to our EHLO (RFC 5321 section 4.1.1.1), in upper case."""
        if self.reply is None or not self.reply.positive or self.verb != b"EHLO":
            return frozenset()
        return frozenset(line.split(" ", 1)[0].upper() for line in self.reply.lines[1:])

    @property
    def pipelining(self) -> bool:
        """The server announced PIPELINING (RFC 2920) to our EHLO."""
        return "PIPELINING" in self.keywords


@dataclass(slots=True)
class Answers:
    """What a series of offers came to.

    Attributes:
        outcomes: One for each offer that was answered, in order.
        broken: The connection broke on the way.
        hung_up: The server said 421 or closed: it has had enough of this session.
        parted: QUIT was said.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    broken: Broken | None = None
    hung_up: bool = False
    parted: bool = False


def greet(name: bytes, *, secure: bool = False, old: bool = False) -> Generator[Move, Got, Hello]:
    """Wait for the whole greeting, then say EHLO, or HELO where EHLO is refused.

    Talking before the greeting is complete would be a breach (RFC 5321 section 3.1) that
    postscreen and sendmail's greet_pause punish.

    Args:
        name: Ours.
        secure: TLS comes before the greeting (RFC 8314 section 3.3).
        old: Say HELO at once: there are servers that hang up at EHLO.
    """
    if secure:
        got = yield Secure()
        if got.broken is not None:
            return Hello(None, broken=got.broken)
    got = yield Greeting()
    if got.broken is not None or not got.replies or got.replies[0].code != 220:
        greeting = got.replies[0] if got.replies else None
        return Hello(greeting, broken=got.broken)
    return (yield from _hello(name, got.replies[0], _HELLOS[old:]))


def secure(name: bytes, hello: Hello) -> Generator[Move, Got, Hello]:
    """Begin TLS by STARTTLS, and say EHLO anew (RFC 3207 section 4.2).

    Returns:
        How the server met us now; not welcome if it takes STARTTLS back.
    """
    got = yield Send((b"STARTTLS",))
    reply = got.replies[0] if got.replies else None
    if got.broken is not None or reply is None or reply.code != 220:
        return Hello(
            hello.greeting, reply if reply and not reply.positive else None, b"STARTTLS", got.broken
        )
    got = yield Secure()
    if got.broken is not None or hello.greeting is None:
        return Hello(hello.greeting, None, b"STARTTLS", got.broken)
    return (yield from _hello(name, hello.greeting, _HELLOS))


def _hello(name: bytes, greeting: Reply, verbs: Sequence[bytes]) -> Generator[Move, Got, Hello]:
    for verb in verbs:
        got = yield Send((b"%b %b" % (verb, name),))
        reply = got.replies[0] if got.replies else None
        hello = Hello(greeting, reply, verb, got.broken)
        # RFC 5321 section 3.2: fall back to HELO on a 5yz such as 500 or 502
        if got.broken is not None or reply is None or not reply.permanent:
            break
    return hello


def hold(offers: Sequence[Offer], *, pipelining: bool) -> Generator[Move, Got, Answers]:
    """Offer each envelope in a transaction of its own, then say QUIT; see `ask` and `part`.

    With pipelining QUIT goes out with the last group, which saves a round trip.
    """
    answers = yield from ask(offers, pipelining=pipelining, last=True)
    return (yield from part(answers))


def ask(
    offers: Sequence[Offer], *, pipelining: bool, last: bool = False
) -> Generator[Move, Got, Answers]:
    """Offer each envelope in a transaction of its own; go on after refusals.

    Args:
        offers: Those with a message are carried through to the final dot.
        pipelining: Send command groups in one write. DATA may only end a group (RFC 2920
            section 3.1), so offers with a message take two writes each.
        last: Nothing follows: a group at the end may carry QUIT.
    """
    answers = Answers()
    waiting = list(offers)
    while waiting and answers.broken is None and not answers.hung_up:
        if waiting[0].message is None and pipelining:
            first = len(waiting) == len(offers)
            group = list(itertools.takewhile(lambda offer: offer.message is None, waiting))
            waiting = waiting[len(group) :]
            answers.parted = last and not waiting
            yield from _ask_group(group, answers, first=first)
        else:
            first = len(waiting) == len(offers)
            yield from _ask_one(waiting.pop(0), answers, pipelining=pipelining, first=first)
    return answers


def part(answers: Answers) -> Generator[Move, Got, Answers]:
    """Say QUIT and look that nothing but its reply comes; a surplus reply voids the answers.

    That a message went out stays true, whatever the replies to it are worth.
    """
    if answers.broken is None and not answers.parted:
        answers.parted = True
        answers.broken = (yield Farewell()).broken
    if _is_void(answers.broken):
        sent = [outcome.form for outcome in answers.outcomes if outcome.message_sent]
        answers.outcomes = [Outcome(form, Step.END_OF_DATA, None) for form in sent]
    return answers


def _ask_group(
    offers: Sequence[Offer], answers: Answers, *, first: bool
) -> Generator[Move, Got, None]:
    """MAIL, RCPT, RSET for each offer, all in one write, with QUIT if the answers say so."""
    lines = tuple(line for offer in offers for line in (*_mail_and_rcpt(offer), b"RSET"))
    got = yield Farewell(lines) if answers.parted else Send(lines)
    answers.broken = got.broken
    for place, offer in enumerate(offers):
        replies = got.replies[3 * place : 3 * place + 3]
        if _note_hang_up(replies, answers) or len(replies) < 3:
            return
        if not replies[2].positive:
            answers.hung_up = True  # what follows would go into a transaction still open
            # Postfix wants TLS for RSET too. All alike, no reply is taken for that to another.
            if all(reply.code == 530 for reply in replies):
                _note(offer, replies[:2], answers, first=first and place == 0)
            return
        _note(offer, replies[:2], answers, first=first and place == 0)


def _ask_one(
    offer: Offer, answers: Answers, *, pipelining: bool, first: bool
) -> Generator[Move, Got, None]:
    """One transaction, as far as the server lets it go."""
    lines = [*_mail_and_rcpt(offer)] + [b"DATA"] * (offer.message is not None)
    replies: list[Reply] = []
    for group in [tuple(lines)] if pipelining else [(line,) for line in lines]:
        got = yield Send(group)
        replies += got.replies
        answers.broken = got.broken
        if _note_hang_up(got.replies, answers) or got.broken is not None:
            return
        if not got.replies[-1].positive:
            break
    if len(replies) == 3 and replies[2].code == 354:
        yield from _hand_over(offer, replies, answers)
        return
    got = yield Send((b"RSET",))
    answers.broken = got.broken
    if _note_hang_up(got.replies, answers):
        return
    if got.broken is None:
        answers.hung_up = not got.replies[0].positive  # without RSET no second one can be trusted
        _note(offer, replies, answers, first=first)
    elif got.broken.kind is Break.CLOSED and not pipelining:  # each reply came when it was due
        _note(offer, replies, answers, first=first)


def _hand_over(
    offer: Offer, replies: Sequence[Reply], answers: Answers
) -> Generator[Move, Got, None]:
    """After 354: the message if the recipient stands, else an empty one (RFC 2920 3.1)."""
    refused = not (replies[0].positive and replies[1].positive)
    got = yield Content(b"" if refused or offer.message is None else offer.message)
    answers.broken = got.broken
    reply = got.replies[0] if got.replies else None
    if refused:
        _note(offer, replies[:2], answers, first=False)
    else:
        told = None if _is_void(got.broken) else reply
        answers.outcomes.append(Outcome(offer.form, Step.END_OF_DATA, told))
    if reply is not None and reply.code == 421:
        answers.hung_up = True


def _note(offer: Offer, replies: Sequence[Reply], answers: Answers, *, first: bool) -> None:
    """Keep the first refusal, or the last word. A 503 to MAIL counts only in a fresh session.

    A server that says 503 to a later MAIL has not understood our RSET: that says nothing about
    the form, which is asked again in a session of its own.
    """
    refusals = (place for place, reply in enumerate(replies) if not reply.positive)
    place = next(refusals, len(replies) - 1)
    step = (Step.MAIL, Step.RCPT, Step.DATA)[place]
    if replies[place].code != 503 or step is not Step.MAIL or first:
        answers.outcomes.append(Outcome(offer.form, step, replies[place]))


def _is_void(broken: Broken | None) -> bool:
    return broken is not None and broken.kind in {Break.DESYNC, Break.GARBAGE}


def _note_hang_up(replies: Sequence[Reply], answers: Answers) -> bool:
    """421 may answer any command and ends the session (RFC 5321 section 3.8)."""
    answers.hung_up = answers.hung_up or any(reply.code == 421 for reply in replies)
    return any(reply.code == 421 for reply in replies)


def _mail_and_rcpt(offer: Offer) -> tuple[bytes, bytes]:
    paths = offer.envelope
    return b"MAIL FROM:%b" % paths.reverse_path, b"RCPT TO:%b" % paths.forward_path
