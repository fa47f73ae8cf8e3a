"""Where events go, and what becomes of them where nothing can be written."""

from pathlib import Path

import pytest
import structlog

from relaytest.cli.logs import start_log
from relaytest.core.config import Log


@pytest.fixture(autouse=True)
def as_before():
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.mark.parametrize("level", ["info", "warning", "error", "exception"])
@pytest.mark.parametrize("form", ["json", "pretty"])
def test_a_full_disk_under_the_log_is_no_error(form, level):
    stream = Path("/dev/full").open("w", buffering=1)  # noqa: SIM115 - cannot be closed well
    start_log(Log(format=form), stream)
    getattr(structlog.get_logger("worker"), level)("visit", address="192.0.2.1")
    with pytest.raises(OSError, match="No space left"):
        stream.close()


def test_an_event_says_who_logs(tmp_path):
    with (tmp_path / "log").open("w") as stream:
        start_log(Log(format="json"), stream)
        structlog.get_logger("worker").info("visit", address="192.0.2.1")
    assert '"from": "worker", "address": "192.0.2.1"' in (tmp_path / "log").read_text()
