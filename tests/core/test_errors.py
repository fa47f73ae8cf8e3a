"""Errors: what may be tried again, and that each can be caught as ours."""

import pytest

from relaytest.core import errors
from relaytest.core.errors import (
    BatteryError,
    ClusterError,
    ConfigError,
    DatabaseAwayError,
    RefusedRequestError,
    RelaytestError,
    SchemaError,
)

TEMPORARY = {
    RelaytestError: False,
    ConfigError: False,
    BatteryError: False,
    SchemaError: False,
    ClusterError: False,
    DatabaseAwayError: True,
    RefusedRequestError: False,
}


def test_every_error_is_in_the_table():
    classes = {one for one in vars(errors).values() if isinstance(one, type)}
    assert classes == TEMPORARY.keys()


@pytest.mark.parametrize(("error", "temporary"), TEMPORARY.items())
def test_only_an_absent_database_is_temporary(error, temporary):
    assert error.temporary is temporary


@pytest.mark.parametrize("error", TEMPORARY)
def test_every_error_is_caught_as_one_of_ours(error):
    with pytest.raises(RelaytestError, match="the sentence"):
        raise error("the sentence")


@pytest.mark.parametrize("error", TEMPORARY)
def test_an_error_lets_python_set_its_traceback(error):
    raised = error("the sentence").with_traceback(None)
    assert raised.__traceback__ is None


def test_a_refused_request_keeps_the_hint_apart_from_the_sentence():
    error = RefusedRequestError("192.0.2.1 may not be tested", "ask for another address")
    assert (str(error), error.hint) == ("192.0.2.1 may not be tested", "ask for another address")


def test_a_refused_request_without_a_hint_has_an_empty_one():
    assert RefusedRequestError("no").hint == ""
