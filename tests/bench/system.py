"""Settings for the real programs on a temporary PostgreSQL."""

import json
import os
import subprocess
import sys

from tests.bench.processes import ROOT

SINK_DOMAIN = "sink.example"


def settings(dsn: str, **more: str) -> dict[str, str]:
    """Return RELAYTEST_... variables: everything on the loopback, no visit twice.

    Args:
        dsn: The database.
        more: Put over them, without the RELAYTEST_ in front.
    """
    values = {
        "CONFIG": os.devnull,
        "DATABASE__DSN": dsn,
        "IDENTITY__EHLO_NAME": "probe.relaytest.example",
        "SCOPE__ALLOW": json.dumps(["127.66.0.0/16"]),
        "SINK__DOMAINS": json.dumps([SINK_DOMAIN]),
        "DNS__NAMESERVERS": json.dumps(["127.66.0.1:9"]),
        "TIMING__RETRIES": json.dumps([]),
        "LOG__FORMAT": "json",
    }
    return {f"RELAYTEST_{key}": value for key, value in (values | more).items()}


def upgraded(values: dict[str, str]) -> dict[str, str]:
    """Give the database its schema, and return the settings."""
    subprocess.run(
        [sys.executable, "-m", "relaytest", "db", "upgrade"],
        cwd=ROOT,
        env=os.environ | values,
        stdout=subprocess.DEVNULL,
        timeout=60,
        check=True,
    )
    return values
