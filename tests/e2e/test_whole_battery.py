"""The whole battery at real, closed servers: none loses patience, and every form is answered."""

from functools import partial
from pathlib import Path

import pytest

from relaytest.core.probe import CONTROL
from tests.lab import SINK_DOMAIN, Lab, lab_config, running
from tests.mta.exim import Exim
from tests.mta.opensmtpd import OpenSmtpd
from tests.mta.packages import require
from tests.mta.postfix import Postfix
from tests.mta.process import fresh_address, fresh_port
from tests.mta.sendmail import Sendmail

# Debian's sendmail hears a stranger ten times in ten minutes (access, ClientRate; sendmail.mc,
# confCONNECTION_RATE_WINDOW_SIZE), which is a matter of visits and not of the forms.
SERVERS = pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("postfix", Postfix),
        ("exim", Exim),
        ("opensmtpd", OpenSmtpd),
        ("sendmail", partial(Sendmail, limits=False)),
    ],
    ids=["postfix", "exim", "opensmtpd", "sendmail"],
)
FEWEST = 120  # forms; a few need names or extensions that these servers do not have


@pytest.fixture
async def lab(database, dsn, tmp_path):
    """A system that sends the whole battery, in one visit."""
    config = lab_config(
        tmp_path / "zone",
        battery={"depth": "full"},
        sink={"domains": [SINK_DOMAIN, "sink.test"]},
        timing={"patience": "1s"},
    )
    async with running(config, database, dsn) as system:
        yield system


async def asked(lab: Lab, trial: int) -> set[int]:
    return set(
        await lab.connection.fetchval("SELECT forms FROM relaytest.trial WHERE id = $1", trial)
    )


async def answered(lab: Lab, trial: int) -> set[int]:
    rows = await lab.connection.fetch(
        "SELECT DISTINCT form FROM relaytest.outcome WHERE trial = $1 AND form <> $2",
        trial,
        CONTROL,
    )
    return {row["form"] for row in rows}


async def ends(lab: Lab, trial: int) -> set[str]:
    rows = await lab.connection.fetch(
        "SELECT DISTINCT ended FROM relaytest.session WHERE trial = $1", trial
    )
    return {row["ended"] for row in rows}


async def verdict(lab: Lab, root: Path, kind):
    """Have the whole battery sent to a server that is closed; return what is found."""
    host = fresh_address()
    target = kind(
        root,
        host,
        fresh_port(host),
        hostname="mail.lab.example",
        domains=["lab.example"],
        sink=lab.sink,
        relay=False,
    )
    with target:
        await lab.insert(host, target.port)
        return await lab.verdict(host)


@SERVERS
async def test_a_closed_server_answers_every_form_and_bears_every_session(
    lab, tmp_path, name, kind
):
    require(name)
    found = await verdict(lab, tmp_path / name, kind)
    forms = await asked(lab, found["trial"])
    assert len(forms) >= FEWEST
    assert forms - await answered(lab, found["trial"]) == set()
    assert await ends(lab, found["trial"]) == {"complete"}
    assert (found["verdict"], await lab.listed()) == ("closed", set())


async def test_a_server_that_limits_connections_is_closed_only_by_all_its_answers(lab, tmp_path):
    require("sendmail")
    found = await verdict(lab, tmp_path / "sendmail", Sendmail)
    left = await asked(lab, found["trial"]) - await answered(lab, found["trial"])
    assert found["verdict"] == ("unknown" if left else "closed")
    assert await lab.listed() == set()
