"""README and docs/ say what the program does: their tables against the code, and their links."""

import re
import tomllib
from pathlib import Path

import asyncpg
import pytest

from relaytest.cli.app import app
from relaytest.core.config import options, parse_config
from relaytest.core.listing import WHEN_EXCLUDED, Event, State, step
from relaytest.core.probe import PLACEHOLDERS, Helo
from relaytest.core.values import format_value
from relaytest.core.verdict import Reason
from relaytest.daemons import shipped

ROOT = Path(__file__).parents[1]
PAGES = {
    str(file.relative_to(ROOT)): file.read_text(encoding="utf-8")
    for file in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
}
README = PAGES["README.md"]
CONFIGURATION = PAGES["docs/configuration.md"]
SQL = PAGES["docs/sql.md"]
GUARANTEES = PAGES["docs/guarantees.md"]
EXTEND = PAGES["docs/extend.md"]


def test_every_option_stands_in_the_table_with_its_default_and_meaning():
    for key, field in options():
        default = format_value(field.default)
        shown = f"`{default}`" if default else ""
        assert f"| `{key}` | {shown} | {field.description} |" in CONFIGURATION


def test_the_table_has_no_option_that_does_not_exist():
    known = {key for key, _ in options()}
    assert set(re.findall(r"^\| `([a-z]+\.[a-z_0-9]+)` \|", CONFIGURATION, re.MULTILINE)) == known


def test_every_reason_of_a_verdict_is_explained():
    assert [one.value for one in Reason if f"`{one.value}`" not in README] == []


def test_the_example_configurations_are_right():
    (whole,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    extra = re.findall(r"```toml\n(.*?)```", EXTEND, re.DOTALL)[0]
    assert parse_config(tomllib.loads(whole)).sink.domains
    assert parse_config(tomllib.loads(extra)).battery.extras()


def test_the_sizes_of_the_battery_are_those_of_the_battery():
    forms = shipped.battery().forms
    tiers = [sum(form.tier == tier for form in forms) for tier in (1, 2, 3, 4)]
    assert f"There are {len(forms)} of them in four tiers" in EXTEND
    told = EXTEND[EXTEND.index("in four tiers") :]
    assert re.findall(r"\((\d+)\)[,:]", told)[:4] == [str(size) for size in tiers]


def test_every_placeholder_and_name_in_ehlo_is_explained():
    ours = {"sink_upper", "sink_imcea"}  # spellings of sink that only their own forms need
    assert [one for one in PLACEHOLDERS - ours if f"`${{{one}}}`" not in EXTEND] == []
    assert [one.value for one in Helo if f"`{one.value}`" not in EXTEND] == []


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
    (columns,) = re.findall(rf"^\| `{view}` \| `([a-z_, ]+)` \|", SQL, re.MULTILINE)
    await connection.execute(f"SELECT {columns} FROM relaytest.{view}")


async def test_the_reasons_of_a_request_are_the_contract(connection: asyncpg.Connection):
    rows = await connection.fetch("SELECT unnest(enum_range(NULL::relaytest.reason))::text")
    assert [row[0] for row in rows if f"`{row[0]}`" not in SQL] == []


@pytest.mark.parametrize("page", ["README.md", "docs/sql.md"])
async def test_the_examples_of_asking_run(connection: asyncpg.Connection, page):
    (statement,) = re.findall(r'psql "\$DSN" -c "(INSERT .*?)"$', PAGES[page], re.MULTILINE)
    await connection.execute(statement)
    assert await connection.fetchval("SELECT target FROM relaytest.retest") == "192.0.2.7"


def test_every_state_and_every_cause_of_a_change_is_in_the_diagram():
    (diagram,) = re.findall(r"## Listing policy\n\n```\n(.*?)```", GUARANTEES, re.DOTALL)
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


def test_every_transition_is_in_the_table():
    rows = [
        f"| `{event.value}` | "
        + " | ".join(after.value if (after := step(state, event)) else "" for state in State)
        + f" | {'yes' if WHEN_EXCLUDED[event] else 'no'} |"
        for event in Event
    ]
    told = re.findall(r"^\| `.*\| (?:yes|no) \|$", GUARANTEES, re.MULTILINE)
    assert told == [re.sub("  +", " ", row) for row in rows]


def test_every_command_is_named():
    groups = [(f"{group.name} ", group.typer_instance) for group in app.registered_groups]
    names = [
        prefix + (command.name or command.callback.__name__)
        for prefix, typer in [("", app), *groups]
        for command in typer.registered_commands
    ]
    told = "\n".join(PAGES.values())
    assert [name for name in names if not re.search(rf"[`/ ]{name}[`; \n]", told)] == []


def anchors(page: str) -> set[str]:
    """Return the names that GitHub gives the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", sorted(PAGES))
def test_every_link_between_pages_leads_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)\s]*)\)", PAGES[page])
    for link in links:
        path, _, heading = link.partition("#")
        file = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert file.exists(), link
        if heading:
            assert heading in anchors(file.read_text(encoding="utf-8")), link


def test_every_page_is_named_in_the_readme():
    assert [page for page in PAGES if page != "README.md" and f"]({page})" not in README] == []
