"""Which forms go into which session, round after round, until all are answered or hope is gone.

Error budgets of stock servers set the sizes: Postfix slows down after 10 errors and hangs up
after 20, Exim hangs up after 10 RSETs without a message or after 3 syntax errors. So sessions
are short; a first one alone shows how the server is, and what it leaves unanswered is asked
again in smaller sessions, at last one form a connection.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from relaytest.core.probe import Form, Helo


class Purpose(enum.Enum):
    """What a session is for."""

    SCOUT = "scout"  # the first one, alone, with the control recipient
    ASK = "ask"  # forms, several a session
    ALONE = "alone"  # one form a session, one command at a time
    CONFIRM = "confirm"  # messages for the recipients that were accepted


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large sessions may be.

    Attributes:
        forms: Transactions in one session.
        odd: Of them, forms that are often counted as syntax errors.
        sessions: Connections at once.
    """

    forms: int
    odd: int
    sessions: int


@dataclass(frozen=True, slots=True)
class Findings:
    """What the sessions so far showed of the target; it sets size and number of the next ones.

    Attributes:
        strained: It turned one away or cut it short, so only one runs at a time.
        pipelining: It did not lose commands that were sent together.
        settling: Replies can be told apart only by waiting, one form a session.
        forms: So many fit into half of the longest session, at its pace.
    """

    strained: bool = False
    pipelining: bool = True
    settling: bool = False
    forms: int = 8

    def within(self, sizes: Sizes) -> Sizes:
        """Return the sizes as far as the target keeps up."""
        forms = max(1, min(sizes.forms, self.forms))
        return Sizes(forms, min(sizes.odd, forms), sizes.sessions)


NOTHING = Findings()


@dataclass(frozen=True, slots=True)
class Round:
    """Sessions that may run at the same time.

    Attributes:
        groups: The forms of each session.
        at_once: How many of the sessions may run at once.
        pipelining: Use it where it is announced.
    """

    purpose: Purpose
    groups: tuple[tuple[Form, ...], ...]
    at_once: int
    pipelining: bool


def scout(forms: Sequence[Form], sizes: Sizes) -> Round:
    """The first session. One place of it goes to the control recipient."""
    own = [form for form in forms if form.helo is Helo.OWN]
    group = split(own, Sizes(max(1, sizes.forms - 1), sizes.odd, 1))[:1]
    return Round(Purpose.SCOUT, group, 1, pipelining=True)


def following(
    number: int, unanswered: Sequence[Form], sizes: Sizes, found: Findings = NOTHING
) -> Round | None:
    """Return round `number` (1 is the first after the scout) for what is unanswered, or None.

    Args:
        number: Counts rounds, not sessions.
        unanswered: Forms without an answer so far, in battery order.
        sizes: From the configuration.
        found: By the sessions before.
    """
    if not unanswered or number > (1 if found.settling else 3):
        return None
    at_once = 1 if found.strained else sizes.sessions
    if found.settling:
        return _alone(Purpose.ALONE, unanswered, at_once)
    if number == 1:
        groups = split(unanswered, found.within(sizes))
        return Round(Purpose.ASK, groups, at_once, found.pipelining)
    if number == 2:
        small = Sizes(max(1, found.within(sizes).forms // 2), 1, 1)
        return Round(Purpose.ASK, split(unanswered, small), 1, pipelining=False)
    return _alone(Purpose.ALONE, unanswered, 1)


def confirming(
    number: int, willing: Sequence[Form], sizes: Sizes, found: Findings = NOTHING
) -> Round | None:
    """Return round `number` of sending a message to each recipient that was accepted, or None.

    Args:
        number: From 1. What the first round did not get rid of goes in sessions of its own.
        willing: Forms whose recipient was accepted and whose message was not handed over.
        sizes: From the configuration.
        found: As for `following`.
    """
    if not willing or number > (1 if found.settling else 2):
        return None
    at_once = 1 if found.strained else sizes.sessions
    if found.settling:
        return _alone(Purpose.CONFIRM, willing, at_once)
    if number == 1:
        groups = split(willing, found.within(sizes))
        return Round(Purpose.CONFIRM, groups, at_once, found.pipelining)
    return _alone(Purpose.CONFIRM, willing, 1)


def _alone(purpose: Purpose, forms: Sequence[Form], at_once: int) -> Round:
    return Round(purpose, tuple((form,) for form in forms), at_once, pipelining=False)


def split(forms: Sequence[Form], sizes: Sizes) -> tuple[tuple[Form, ...], ...]:
    """Deal `forms` into as few groups as the sizes let, keeping their order inside a group.

    What is said in EHLO holds for a whole session, so a group has forms of one Helo only.
    """
    helos = dict.fromkeys(form.helo for form in forms)
    return tuple(
        group
        for helo in helos
        for group in _deal([form for form in forms if form.helo is helo], sizes)
    )


def _deal(forms: Sequence[Form], sizes: Sizes) -> tuple[tuple[Form, ...], ...]:
    odd = [place for place, form in enumerate(forms) if form.odd]
    even = [place for place, form in enumerate(forms) if not form.odd]
    ration = min(sizes.odd, sizes.forms)
    number = max(-(-len(forms) // sizes.forms), -(-len(odd) // ration))
    groups = [odd[n * ration : (n + 1) * ration] for n in range(number)]
    for group in groups:
        room = sizes.forms - len(group)
        group.extend(even[:room])
        del even[:room]
    return tuple(tuple(forms[place] for place in sorted(group)) for group in groups)
