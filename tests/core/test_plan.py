"""Rounds and sessions: nothing lost, nothing twice, never more than a server puts up with."""

from collections import Counter
from importlib.resources import files

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relaytest.core.plan import (
    NOTHING,
    Findings,
    Purpose,
    Round,
    Sizes,
    confirming,
    following,
    scout,
    split,
)
from relaytest.core.probe import Form, Path, parse_battery

BATTERY = parse_battery((files("relaytest.core") / "battery.toml").read_text(encoding="utf-8"))
QUICK = BATTERY.up_to(2)
SIZES = Sizes(forms=8, odd=2, sessions=4)


def path(number, odd=False):
    return Path(f"P-{number}", number, "<${user}@${sink}>", "", odd=odd)


def forms_of(oddities):
    """One form for each, odd or not."""
    return tuple(Form(path(1), path(place, odd), 1) for place, odd in enumerate(oddities, start=1))


def numbers_of(groups):
    return Counter(form.number for group in groups for form in group)


def fewest(forms, sizes):
    """How many sessions there must be at least."""
    odd = sum(form.odd for form in forms)
    return max(-(-len(forms) // sizes.forms), -(-odd // sizes.odd))


some_forms = st.lists(st.booleans(), max_size=40).map(forms_of)
some_sizes = st.builds(
    Sizes, forms=st.integers(1, 8), odd=st.integers(1, 2), sessions=st.integers(1, 8)
)
rounds = settings(derandomize=True, deadline=None, max_examples=300)


@given(some_forms, some_sizes)
@rounds
def test_every_form_is_in_exactly_one_group(forms, sizes):
    assert numbers_of(split(forms, sizes)) == Counter(form.number for form in forms)


@given(some_forms, some_sizes)
@rounds
def test_no_group_is_larger_than_a_session_may_be(forms, sizes):
    assert all(1 <= len(group) <= sizes.forms for group in split(forms, sizes))


@given(some_forms, some_sizes)
@rounds
def test_no_group_has_more_odd_forms_than_a_server_puts_up_with(forms, sizes):
    odd = [sum(form.odd for form in group) for group in split(forms, sizes)]
    assert all(count <= sizes.odd for count in odd)


@given(some_forms, some_sizes)
@rounds
def test_forms_keep_their_order_inside_a_group(forms, sizes):
    groups = split(forms, sizes)
    assert all(list(group) == sorted(group, key=forms.index) for group in groups)


@given(some_forms, some_sizes)
@example(forms_of([False, False, True, True]), Sizes(forms=2, odd=1, sessions=1))
@rounds
def test_there_are_as_few_groups_as_the_sizes_let(forms, sizes):
    assert len(split(forms, sizes)) == fewest(forms, sizes)


def test_its_odd_forms_decide_how_many_sessions_the_quick_battery_takes():
    assert [len(group) for group in split(QUICK, SIZES)] == [8, 8, 3, 2, 1]


def test_no_forms_make_no_group():
    assert split((), SIZES) == ()


def test_the_scout_leaves_one_place_to_the_control_recipient():
    assert [len(group) for group in scout(QUICK, SIZES).groups] == [7]


def test_the_scout_begins_with_the_first_forms_of_the_battery():
    assert scout(QUICK, SIZES).groups[0] == QUICK[:7]


def test_the_scout_is_alone():
    first = scout(QUICK, SIZES)
    assert (first.purpose, len(first.groups), first.at_once) == (Purpose.SCOUT, 1, 1)


def test_the_scout_uses_pipelining_where_it_is_announced():
    assert scout(QUICK, SIZES).pipelining


def test_the_scout_asks_one_form_where_a_session_holds_only_one():
    assert [len(group) for group in scout(QUICK, Sizes(1, 1, 1)).groups] == [1]


@given(some_forms.filter(bool), some_sizes)
@rounds
def test_the_scout_keeps_to_the_limit_of_odd_forms(forms, sizes):
    assert sum(form.odd for form in scout(forms, sizes).groups[0]) <= sizes.odd


@pytest.mark.parametrize(
    ("number", "purpose", "largest", "at_once", "pipelining"),
    [
        (1, Purpose.ASK, 8, 4, True),
        (2, Purpose.ASK, 4, 1, False),
        (3, Purpose.ALONE, 1, 1, False),
    ],
    ids=["first", "second", "third"],
)
def test_each_round_is_gentler_than_the_one_before(number, purpose, largest, at_once, pipelining):
    plan = following(number, QUICK, SIZES, NOTHING)
    assert plan is not None
    assert plan == Round(purpose, plan.groups, at_once, pipelining)
    assert max(len(group) for group in plan.groups) == largest


@pytest.mark.parametrize("number", [1, 2, 3])
def test_each_round_asks_every_form_once(number):
    plan = following(number, QUICK, SIZES, NOTHING)
    assert plan is not None
    assert numbers_of(plan.groups) == Counter(form.number for form in QUICK)


def test_the_second_round_has_one_odd_form_in_a_session():
    plan = following(2, QUICK, SIZES, NOTHING)
    assert plan is not None
    assert max(sum(form.odd for form in group) for group in plan.groups) == 1


def test_the_second_round_asks_something_where_a_session_holds_only_one():
    plan = following(2, QUICK, Sizes(1, 1, 1), NOTHING)
    assert plan is not None
    assert {len(group) for group in plan.groups} == {1}


@pytest.mark.parametrize("number", [4, 5, 100])
def test_after_three_rounds_hope_is_gone(number):
    assert following(number, QUICK, SIZES, NOTHING) is None


@pytest.mark.parametrize("number", [1, 2, 3])
def test_no_round_follows_when_all_is_answered(number):
    assert following(number, (), SIZES, NOTHING) is None


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_strained_target_gets_one_session_at_a_time(number):
    plan = following(number, QUICK, SIZES, Findings(strained=True))
    assert plan is not None
    assert plan.at_once == 1


@given(some_forms, some_sizes, st.booleans())
@rounds
def test_the_rounds_end_though_nothing_is_ever_answered(forms, sizes, strained):
    number = 1
    while following(number, forms, sizes, Findings(strained=strained)) is not None:
        number += 1
    assert number == (4 if forms else 1)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_nothing_is_confirmed_where_nothing_was_accepted(number):
    assert confirming(number, (), SIZES, NOTHING) is None


@pytest.mark.parametrize(("strained", "at_once"), [(False, 4), (True, 1)])
def test_messages_go_out_in_sessions_of_the_same_sizes(strained, at_once):
    plan = confirming(1, QUICK, SIZES, Findings(strained=strained))
    assert plan == Round(Purpose.CONFIRM, split(QUICK, SIZES), at_once, pipelining=True)


def test_a_message_that_did_not_go_out_gets_a_session_of_its_own():
    plan = confirming(2, QUICK, SIZES, NOTHING)
    alone = tuple((form,) for form in QUICK)
    assert plan == Round(Purpose.CONFIRM, alone, 1, pipelining=False)


@pytest.mark.parametrize("number", [3, 4, 100])
def test_after_two_rounds_a_message_goes_out_no_more(number):
    assert confirming(number, QUICK, SIZES, NOTHING) is None


# ---- what was found sets the next sessions


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("following", [following, confirming])
def test_where_replies_need_time_each_form_has_one_session_of_its_own(number, following):
    plan = following(number, QUICK, SIZES, Findings(settling=True))
    if number > 1:
        assert plan is None
        return
    assert plan is not None
    assert [len(group) for group in plan.groups] == [1] * len(QUICK)
    assert (plan.at_once, plan.pipelining) == (4, False)


@pytest.mark.parametrize("following", [following, confirming])
def test_commands_are_not_sent_together_where_that_lost_some(following):
    plan = following(1, QUICK, SIZES, Findings(pipelining=False))
    assert plan is not None
    assert not plan.pipelining


@pytest.mark.parametrize(("forms", "largest"), [(100, 8), (8, 8), (3, 3), (1, 1), (0, 1)])
@pytest.mark.parametrize("following", [following, confirming])
def test_a_slow_target_gets_smaller_sessions(following, forms, largest):
    plan = following(1, QUICK, SIZES, Findings(forms=forms))
    assert plan is not None
    assert max(len(group) for group in plan.groups) == largest
    assert numbers_of(plan.groups) == Counter(form.number for form in QUICK)
