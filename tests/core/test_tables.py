"""Tables of our data files: what is wrong is told with its place."""

import pytest

from relaytest.core.errors import BatteryError
from relaytest.core.tables import need, only, rows, texts


def test_rows_are_told_with_their_place():
    tables = {"peer": [{"name": "A"}, {"name": "B"}]}
    assert list(rows(tables, "peer", "it")) == [
        ("peer 1", {"name": "A"}),
        ("peer 2", {"name": "B"}),
    ]


def test_an_array_that_is_not_there_has_no_rows():
    assert list(rows({}, "peer", "it")) == []


@pytest.mark.parametrize(
    ("value", "told"), [("x", "it: key 'peer'"), (["x"], "peer 1 is no table")], ids=repr
)
def test_an_array_of_something_else_is_refused(value, told):
    with pytest.raises(BatteryError, match=told):
        list(rows({"peer": value}, "peer", "it"))


def test_known_keys_pass():
    only({"a": 1}, {"a", "b"}, "it")


def test_an_unknown_key_is_refused_with_those_that_are_known():
    with pytest.raises(BatteryError, match="it: unknown key 'c'; known: a, b"):
        only({"a": 1, "c": 1}, {"b", "a"}, "it")


@pytest.mark.parametrize(
    ("value", "kind"), [("x", str), (1, int), (True, bool), ([], list)], ids=repr
)
def test_a_value_of_the_right_kind_is_returned(value, kind):
    assert need({"a": value}, "a", kind, "it") == value


@pytest.mark.parametrize(
    ("table", "kind"),
    [({}, str), ({"a": 1}, str), ({"a": "x"}, int), ({"a": True}, int), ({"a": 1}, bool)],
    ids=repr,
)
def test_a_missing_value_or_one_of_another_kind_is_refused(table, kind):
    with pytest.raises(BatteryError, match=f"it: key 'a' is missing or is no {kind.__name__}"):
        need(table, "a", kind, "it")


def test_a_list_of_texts_is_returned():
    assert texts({"a": ["x", "y"]}, "a", "it") == ("x", "y")


@pytest.mark.parametrize("value", ["x", [1], [["x"]], {"x": 1}], ids=repr)
def test_anything_but_a_list_of_texts_is_refused(value):
    with pytest.raises(BatteryError, match="it: key 'a'"):
        texts({"a": value}, "a", "it")
