"""The public pages, a first and plain form: state, evidence, removal.

Every byte that came from mail or SMTP is shown as escaped text; no request with GET has an
effect; no page runs a script.
"""

from relaytest.core.config import Config
from relaytest.daemons.loop import Stop
from relaytest.store.database import Database


async def run(config: Config, database: Database, stop: Stop) -> None:
    """Serve the pages until `stop`."""
    # FastAPI takes a third of a second to load, which no other command needs.
    from relaytest.daemons.web import pages  # noqa: PLC0415

    await pages.run(config, database, stop)
