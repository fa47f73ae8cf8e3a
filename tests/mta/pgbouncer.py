"""PgBouncer, which lets many clients share few connections to PostgreSQL."""

import socket
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.mta.packages import require
from tests.mta.process import Server, account, unprivileged

_SETTINGS = """
[databases]
* = host={folder} port={port} user=postgres
[pgbouncer]
listen_addr = {address}
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 4
ignore_startup_parameters = {ignored}
"""


class PgBouncer(Server):
    """A PgBouncer in transaction mode before one cluster."""

    def __init__(self, root: Path, dsn: str, address: str, port: int, ignored: str = "") -> None:
        """Take the cluster to stand before.

        Args:
            root: Directory for its configuration and log.
            dsn: Of any database of the cluster, by its Unix socket.
            address: To listen on.
            port: Likewise.
            ignored: Startup parameters that it is told to overlook.
        """
        super().__init__("PgBouncer", root, address, port)
        query = parse_qs(urlsplit(dsn).query)
        self._database = urlsplit(dsn).path
        self._settings = _SETTINGS.format(
            folder=query["host"][0],
            port=query["port"][0],
            address=address,
            listen=port,
            ignored=ignored,
        )

    @property
    def dsn(self) -> str:
        """The same database, through it."""
        return f"postgresql://relaytest@{self.address}:{self.port}{self._database}"

    def start(self) -> None:
        """Start it and return once it listens."""
        program = require("pgbouncer")
        self.root.mkdir(parents=True, exist_ok=True)
        file = self.root / "pgbouncer.ini"
        file.write_text(self._settings)
        self.launch(unprivileged([program.path, file], *account()), program.environment)
        self.until(self._listens, "listen")

    def _listens(self) -> bool:
        with socket.socket() as peer:
            return peer.connect_ex((self.address, self.port)) == 0
