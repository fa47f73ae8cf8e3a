"""What a verdict is worth: when to go again, and what stands for targets that are not visited."""

import pytest

from relaytest.core.verdict import Finding, Reason, Verdict, out_of_scope, worth_another_visit

WORTH = {
    Reason.RELAYED: False,
    Reason.REFUSED: False,
    Reason.NOT_RETURNED: False,
    Reason.PENDING: False,
    Reason.DEFERRED: True,
    Reason.BLOCKED: True,
    Reason.UNREACHABLE: True,
    Reason.NOT_SMTP: True,
    Reason.INCOMPLETE: True,
    Reason.DESYNC: True,
    Reason.REPLAYED: False,
    Reason.SINK_DOWN: False,
    Reason.OUT_OF_SCOPE: False,
}


def test_every_reason_says_whether_a_further_visit_is_worth_it():
    assert WORTH.keys() == set(Reason)


@pytest.mark.parametrize(("reason", "worth"), WORTH.items(), ids=str)
def test_a_further_visit_is_worth_it_where_it_may_tell_more(reason, worth):
    assert worth_another_visit(Verdict(Finding.UNKNOWN, reason, "low", "")) is worth


def test_no_verdict_is_not_worth_a_visit():
    assert not worth_another_visit(None)


def test_a_target_out_of_scope_is_unknown_with_the_reason():
    verdict = out_of_scope("loopback (RFC 1122)")
    assert (verdict.finding, verdict.reason) == (Finding.UNKNOWN, Reason.OUT_OF_SCOPE)
    assert verdict.explanation == "The address may not be tested: loopback (RFC 1122)."
