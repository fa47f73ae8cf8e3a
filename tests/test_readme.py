"""The README says what the program does: its tables against the code."""

import re
import tomllib
from pathlib import Path

import asyncpg
import pytest

from relaytest.cli.app import app
from relaytest.core.config import options, parse_config
from relaytest.core.listing import Event, State
from relaytest.core.probe import PLACEHOLDERS, Helo
from relaytest.core.values import format_value
from relaytest.core.verdict import Reason
from relaytest.daemons import shipped

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_every_option_stands_in_the_table_with_its_default_and_meaning():
    for key, field in options():
        default = format_value(field.default)
        shown = f"`{default}`" if default else ""
        assert f"| `{key}` | {shown} | {field.description} |" in README


def test_the_table_has_no_option_that_does_not_exist():
    known = {key for key, _ in options()}
    assert set(re.findall(r"^\| `([a-z]+\.[a-z_0-9]+)` \|", README, re.MULTILINE)) == known


def test_every_reason_of_a_verdict_is_explained():
    assert [one.value for one in Reason if f"`{one.value}`" not in README] == []


def test_the_example_configurations_are_right():
    whole, extra = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    assert parse_config(tomllib.loads(whole)).sink.domains
    assert parse_config(tomllib.loads(extra)).battery.extras()


def test_the_sizes_of_the_battery_are_those_of_the_battery():
    forms = shipped.battery().forms
    tiers = [sum(form.tier == tier for form in forms) for tier in (1, 2, 3, 4)]
    assert f"There are {len(forms)} of them in four tiers" in README
    told = README[README.index("in four tiers") :]
    assert re.findall(r"\((\d+)\)[,:]", told)[:4] == [str(size) for size in tiers]


def test_every_placeholder_and_name_in_ehlo_is_explained():
    ours = {"sink_upper", "sink_imcea"}  # spellings of sink that only their own forms need
    assert [one for one in PLACEHOLDERS - ours if f"`${{{one}}}`" not in README] == []
    assert [one.value for one in Helo if f"`{one.value}`" not in README] == []


@pytest.mark.parametrize(
    "view",
    [
        "verdict_latest",
        "listing_current",
        "listing_history",
        "exclusion_current",
        "queue_status",
    ],
)
async def test_the_columns_of_the_views_are_the_contract(connection: asyncpg.Connection, view):
    (columns,) = re.findall(rf"^\| `{view}` \| `([a-z_, ]+)` \|", README, re.MULTILINE)
    await connection.execute(f"SELECT {columns} FROM relaytest.{view}")


async def test_the_reasons_of_a_request_are_the_contract(connection: asyncpg.Connection):
    rows = await connection.fetch("SELECT unnest(enum_range(NULL::relaytest.reason))::text")
    assert [row[0] for row in rows if f"`{row[0]}`" not in README] == []


async def test_the_examples_of_asking_run(connection: asyncpg.Connection):
    (statement,) = re.findall(r'psql "\$DSN" -c "(INSERT .*?)"$', README, re.MULTILINE)
    await connection.execute(statement)
    assert await connection.fetchval("SELECT target FROM relaytest.retest") == "192.0.2.7"


def test_every_state_and_every_cause_of_a_change_is_in_the_diagram():
    (diagram,) = re.findall(r"## Listing policy\n\n```\n(.*?)```", README, re.DOTALL)
    assert [state.value for state in State if state.value not in diagram] == []
    words = {
        Event.FOUND_OPEN: "open, nothing more is asked for",
        Event.FOUND_SUSPECT: "open, more is asked for",
        Event.FOUND_CLOSED: "closed",
        Event.NOMINATED: "nominated",
        Event.FOUND_EXIT: "exit of a listed relay",
        Event.EXIT_CLEARED: "exit of none",
        Event.EXPIRED: "expired",
        Event.DELISTED: "delisted",
        Event.PURGED: "purged",
    }
    assert [event for event in Event if words[event] not in diagram] == []


def test_every_command_is_named():
    names = [command.name or command.callback.__name__ for command in app.registered_commands]
    assert [name for name in names if not re.search(rf"[`/ ]{name}[` ]", README)] == []
