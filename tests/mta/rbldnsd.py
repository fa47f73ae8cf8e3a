"""rbldnsd, the DNS server the published zone files are written for."""

import signal
import socket
from pathlib import Path

import dns.message

from tests.mta.packages import require
from tests.mta.process import Server, account, family, unprivileged

ATTEMPT = 0.2  # seconds for one question; loopback loses none, but rbldnsd may not be up yet
QUESTION = dns.message.make_query("ready.invalid", "A").to_wire()


class Rbldnsd(Server):
    """An rbldnsd of its own that serves the zones it is given.

    BUGS: rbldnsd compares whole seconds and the size of a file. A file that is rewritten
    within one second with as many bytes looks unchanged to it, on SIGHUP too.
    """

    kind = socket.SOCK_DGRAM

    def __init__(
        self,
        root: Path,
        zone_args: list[str],
        address: str,
        port: int = 53,
        check: int = 0,
    ) -> None:
        """Take zones as rbldnsd's own arguments.

        Args:
            root: Directory for its output; zone files may be anywhere.
            zone_args: `ZONE:TYPE:FILE,FILE`, absolute file names.
            address: IPv4 or IPv6 address to listen on.
            port: UDP port.
            check: Seconds between its looks at the files; 0 for none, so only `reload` counts.
        """
        super().__init__("rbldnsd", root, address, port)
        self.zone_args = zone_args
        self.check = check

    def start(self) -> None:
        """Start it and return once it answers, which is after it has loaded its zones."""
        program = require("rbldnsd")
        self.root.mkdir(parents=True, exist_ok=True)
        options = ["-n", "-b", f"{self.address}/{self.port}", "-c", f"{self.check}s"]
        command = [str(program.path), *options, *self.zone_args]
        self.launch(unprivileged(command, *account()), program.environment)
        self.until(self._answers, "answer")

    def reload(self) -> None:
        """Have changed zone files read, and return when they are served.

        rbldnsd looks for signals before it waits for a question. One that comes between the
        look and the wait is seen after the next answer only; after two it has been seen.
        """
        self.send(signal.SIGHUP)
        for _ in range(2):
            self.until(self._answers, "answer after SIGHUP")

    def _answers(self) -> bool:
        """Ask for a name it does not serve; any answer will do, and it says REFUSED."""
        with socket.socket(family(self.address), socket.SOCK_DGRAM) as asker:
            asker.settimeout(ATTEMPT)
            try:
                asker.connect((self.address, self.port))
                asker.send(QUESTION)
                return bool(asker.recv(512))
            except OSError:
                return False
