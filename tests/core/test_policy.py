"""The listing policy: what is still missing, and which configurations make no sense."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaytest.core.config import parse_config
from relaytest.core.errors import ConfigError
from relaytest.core.listing import Event, State
from relaytest.core.policy import Case, Lack, Listing, event_of, exit_event, explained, occasions
from relaytest.core.verdict import Finding

AT = datetime(2026, 1, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def lacks(*, state=State.UNLISTED, relayed=(AT,), nominated=False, **policy):
    return Listing(**policy).lacks(Case(state, tuple(relayed), nominated))


def test_by_default_one_trial_that_relays_is_enough():
    assert lacks() == ()


@pytest.mark.parametrize(
    ("relayed", "expected"),
    [
        ([AT], (Lack.CONFIRMATION,)),
        ([AT, AT + 23 * HOUR], (Lack.CONFIRMATION,)),
        ([AT, AT + DAY], ()),
        ([AT, AT + HOUR, AT + DAY], ()),
        ([AT + DAY, AT], ()),
        ([AT + n * HOUR for n in range(24)], (Lack.CONFIRMATION,)),
    ],
    ids=["one", "the-same-day", "the-next-day", "three", "in-any-order", "many-on-one-day"],
)
def test_a_confirmation_comes_from_another_day(relayed, expected):
    assert lacks(relayed=relayed, confirmations=2) == expected


def test_another_day_is_what_the_operator_says():
    both = [AT, AT + 30 * HOUR]
    assert lacks(relayed=both, confirmations=2, confirm_after="36h") == (Lack.CONFIRMATION,)


def test_who_is_listed_is_confirmed():
    assert lacks(state=State.LISTED, confirmations=2) == ()


@pytest.mark.parametrize("state", State)
def test_spam_evidence_is_asked_for_in_every_state(state):
    assert lacks(state=state, require_spam_evidence=True) == (Lack.SPAM,)
    assert lacks(state=state, require_spam_evidence=True, nominated=True) == ()


def test_both_may_be_missing():
    assert lacks(confirmations=2, require_spam_evidence=True) == (Lack.CONFIRMATION, Lack.SPAM)


@pytest.mark.parametrize(
    ("finding", "missing", "event"),
    [
        (Finding.OPEN, (), Event.FOUND_OPEN),
        (Finding.OPEN, (Lack.SPAM,), Event.FOUND_SUSPECT),
        (Finding.CLOSED, (), Event.FOUND_CLOSED),
        (Finding.UNKNOWN, (), None),
    ],
)
def test_a_verdict_is_its_event(finding, missing, event):
    assert event_of(finding, missing) is event


def test_the_cause_says_what_is_missing():
    assert explained("It relays.", ()) == "It relays."
    said = explained("It relays.", (Lack.CONFIRMATION, Lack.SPAM))
    assert said.startswith("It relays. Not listed yet: a further trial on another day")
    assert "listing.require_spam_evidence" in said


@given(st.lists(st.integers(0, 2000)), st.integers(24, 100))
def test_occasions_grow_with_time_and_never_with_haste(hours, apart):
    """No more than the span has room for, and a moment more never makes it less."""
    moments = [AT + hour * HOUR for hour in hours]
    count = occasions(moments, apart * HOUR)
    span = max(hours, default=0) - min(hours, default=0)
    assert count <= span // apart + 1
    assert (count > 0) == bool(hours)
    assert occasions([*moments, AT], apart * HOUR) >= count


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"recheck_every": "30d"}, r"recheck_every \(30d\) must be shorter"),
        ({"expire_after": "7d"}, r"must be shorter than expire_after \(7d\)"),
        (
            {"recheck_every": "24h", "confirm_after": "3d", "expire_after": "2d"},
            r"confirm_after \(3d\) must be shorter than expire_after \(2d\)",
        ),
        ({"confirm_after": "23h"}, "must be 24h or more"),
        ({"confirmations": 0}, "greater than or equal to 1"),
        ({"confirmations": 6}, "less than or equal to 5"),
        ({"require_spam_evidence": "perhaps"}, "valid boolean"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value),
)
def test_a_policy_that_makes_no_sense_is_refused(section, told):
    with pytest.raises(ConfigError, match=told) as refused:
        parse_config({"listing": section})
    assert str(refused.value).startswith("listing")


@given(recheck=st.integers(24, 1000), confirm=st.integers(24, 1000), expire=st.integers(1, 1000))
def test_whatever_is_accepted_has_a_test_before_the_end(recheck, confirm, expire):
    try:
        policy = Listing(
            recheck_every=recheck * HOUR, confirm_after=confirm * HOUR, expire_after=expire * HOUR
        )
    except ValueError:
        assert expire <= max(recheck, confirm)
    else:
        assert policy.recheck_every < policy.expire_after
        assert policy.confirm_after < policy.expire_after


@pytest.mark.parametrize(
    ("outputs", "most", "inputs", "listed"),
    [
        (False, 1, 1, False),
        (True, 1, 0, False),
        (True, 1, 1, True),
        (True, 1, 2, False),
        (True, 2, 2, True),
    ],
)
def test_an_exit_is_listed_if_wanted_and_not_shared_by_too_many(outputs, most, inputs, listed):
    policy = Listing(outputs=outputs, output_inputs=most)
    wanted = Event.FOUND_EXIT if listed else Event.EXIT_CLEARED
    assert exit_event(policy, inputs) is wanted
