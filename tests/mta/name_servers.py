"""DNS servers beside rbldnsd: PowerDNS on the database, NSD on a zone file, Unbound before them."""

import re
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import dns.exception
import dns.message
import dns.query

from tests.mta.packages import require
from tests.mta.process import Server, account, unprivileged
from tests.postgres import ROOT

ATTEMPT = 0.2  # seconds for one question


class NameServer(Server):
    """A DNS server that runs in the foreground on one address.

    Attributes:
        place: address:port.
    """

    kind = socket.SOCK_DGRAM
    package = ""
    ready = "ready.invalid"  # any answer will do, and no resolver asks others for it

    def __init__(self, root: Path, address: str, port: int) -> None:
        super().__init__(self.package, root, address, port)
        self.place = f"{address}:{port}"

    def configuration(self, prefix: Path) -> dict[str, str]:
        """Return its files by their names."""
        raise NotImplementedError

    def command(self) -> Sequence[str | Path]:
        """Return the arguments of the program."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it and return once it answers."""
        program = require(self.package)
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o777)  # it runs as another user, and keeps its state here
        for name, text in self.configuration(program.prefix).items():
            (self.root / name).write_text(text)
        command = [program.path, *self.command()]
        self.launch(unprivileged(command, *account()), program.environment)
        self.until(self._answers, "answer")

    def reload(self) -> None:
        """Have changed files read."""
        self.send(signal.SIGHUP)

    def _answers(self) -> bool:
        try:
            question = dns.message.make_query(self.ready, "A")
            dns.query.udp(question, self.address, ATTEMPT, self.port)
        except (dns.exception.DNSException, OSError):
            return False
        return True


class PowerDns(NameServer):
    """PowerDNS with the configuration that is shipped, on one database."""

    package = "pdns"

    def __init__(self, root: Path, dsn: str, address: str, port: int) -> None:
        super().__init__(root, address, port)
        self._dsn = urlsplit(dsn)

    def configuration(self, prefix: Path) -> dict[str, str]:
        """Take what is shipped, with this database and this address."""
        query = parse_qs(self._dsn.query)
        ours = {
            "local-address": self.address,
            "gpgsql-host": query["host"][0],
            "gpgsql-dbname": self._dsn.path[1:],
            "gpgsql-user": "postgres",
        }
        text = (ROOT / "systemd" / "pdns.conf").read_text()
        for key, value in ours.items():
            text, found = re.subn(rf"^{key}=.*$", f"{key}={value}", text, flags=re.MULTILINE)
            assert found == 1
        modules = next(prefix.glob("usr/lib/*/pdns"))
        more = {
            "gpgsql-port": query["port"][0],
            "local-port": self.port,
            "module-dir": modules,
            "socket-dir": self.root,
            "receiver-threads": 1,
            "daemon": "no",
            "guardian": "no",
        }
        return {"pdns.conf": text + "".join(f"{key}={value}\n" for key, value in more.items())}

    def command(self) -> Sequence[str | Path]:
        """Read the configuration here."""
        return [f"--config-dir={self.root}"]


class Nsd(NameServer):
    """NSD on one zone file."""

    package = "nsd"

    def __init__(self, root: Path, zone: str, file: Path, address: str, port: int) -> None:
        super().__init__(root, address, port)
        self._zone, self._file = zone, file

    def configuration(self, _prefix: Path) -> dict[str, str]:
        """Serve one zone, all state here."""
        return {
            "nsd.conf": f"""
server:
    ip-address: {self.address}
    port: {self.port}
    server-count: 1
    username: ""
    zonesdir: "{self.root}"
    pidfile: "{self.root}/nsd.pid"
    xfrdfile: "{self.root}/xfrd.state"
    zonelistfile: "{self.root}/zone.list"
    database: ""
    rrl-ratelimit: 0
remote-control:
    control-enable: no
zone:
    name: {self._zone}
    zonefile: "{self._file}"
"""
        }

    def command(self) -> Sequence[str | Path]:
        """Stay in the foreground."""
        return ["-d", "-c", self.root / "nsd.conf"]


class Unbound(NameServer):
    """A resolver with strict QNAME minimisation that asks one server for one zone."""

    package = "unbound"

    def __init__(self, root: Path, zone: str, place: str, address: str, port: int) -> None:
        super().__init__(root, address, port)
        self._zone = zone
        self._server = place.replace(":", "@")

    def configuration(self, _prefix: Path) -> dict[str, str]:
        """Ask nobody but that server."""
        return {
            "unbound.conf": f"""
server:
    interface: {self.address}
    port: {self.port}
    access-control: 127.0.0.0/8 allow
    do-not-query-localhost: no
    qname-minimisation: yes
    qname-minimisation-strict: yes
    module-config: "iterator"
    use-syslog: no
    do-daemonize: no
    chroot: ""
    username: ""
    directory: "{self.root}"
    pidfile: "{self.root}/unbound.pid"
    num-threads: 1
remote-control:
    control-enable: no
stub-zone:
    name: {self._zone}
    stub-addr: {self._server}
"""
        }

    def command(self) -> Sequence[str | Path]:
        """Stay in the foreground."""
        return ["-d", "-c", self.root / "unbound.conf"]
