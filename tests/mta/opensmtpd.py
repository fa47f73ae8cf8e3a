"""OpenSMTPD with a private configuration and queue, closed or open, in front of a sink."""

from pathlib import Path

from tests.mta.jail import DISCARD, SHELL, Jail, owner
from tests.mta.packages import Program, require
from tests.mta.process import NOWHERE, Server, bracketed, family, greets

SMTPD = "/usr/sbin/smtpd"
SMTPCTL = "/usr/sbin/smtpctl"
DELIVERER = "/usr/libexec/opensmtpd/mail.mda"
STRANGERS_ONLY = 'src "127.0.0.200"'  # nobody connects from there, so 127.0.0.1 is a stranger too
EVERYBODY = "any"

# Debian's smtpd.conf (opensmtpd 6.8.0p2) with its two rules for local mail made one, as its own
# comment says how; `from local` would make a friend of everybody on this machine. The rule
# order matters: the first match counts (smtpd.conf(5)).
CONFIGURATION = """\
table locals {{ {domains} }}
table everybody {{ "@" = "nobody" }}
listen on {address} port {port} hostname {hostname}
action "local" mda "{discard}" virtual <everybody>
action "relay" relay host "smtp+notls://{sink}" helo "{hostname}"{source}
match from any for domain <locals> action "local"
match from {relay_from} for any action "relay"
{extra}
"""

# What the Debian package makes: the queue's account owns the queue, the other may not look
# into it (smtpd.c, `ckdir`); smtpd fills /var/spool/smtpd with more by itself.
QUEUES = ("corrupt", "incoming", "purge", "queue")


class OpenSmtpd(Server):
    """An OpenSMTPD of its own: own file system, one address, all mail out to one sink.

    Closed, it is Debian's OpenSMTPD: a stranger's RCPT is answered 550 Invalid recipient.
    Open, it trusts every client. Mail for `domains` and for `hostname` is accepted for any
    local part and discarded. No DNS is asked, and no TLS offered. Mail goes out with `address`
    as its source, as from a host of its own; without a sink it stays in the queue.

    Attributes:
        relay: Whether it relays for strangers.
    """

    def __init__(
        self,
        root: Path,
        address: str,
        port: int = 25,
        *,
        hostname: str,
        domains: list[str],
        sink: tuple[str, int] | None,
        relay: bool,
        extra: str = "",
    ) -> None:
        super().__init__("OpenSMTPD", root, address, port)
        self.hostname = hostname
        self.domains = domains
        self.sink = sink or NOWHERE
        self.relay = relay
        self.extra = extra
        self._jail = Jail(root / "jail")
        self._program: Program | None = None

    def start(self) -> None:
        """Start it and return once it greets."""
        self._program = require("opensmtpd")
        self._lay_out()
        self._jail.furnish(self._program, SMTPD, SMTPCTL, DELIVERER, SHELL)
        self._jail.allow_group(SMTPCTL, owner("news"))
        # -d: in the foreground, and the log goes to standard error (smtpd(8)).
        self.launch(self._jail.command(SMTPD, "-d"), self._program.environment)
        self.until(lambda: greets(self.address, self.port), "greet")

    def stop(self) -> None:
        """End it and all its processes; harmless if it is not running."""
        super().stop()
        self._jail.clear()

    def reconfigure(self, *, relay: bool) -> None:
        """Open or close it, and return when the new rule holds for everybody.

        A restart with the same queue: OpenSMTPD reads its configuration at the start only.
        """
        self.stop()
        self.relay = relay
        self.start()

    def retry(self) -> None:
        """Have waiting mail tried at once, though its sink was away.

        By itself OpenSMTPD leaves a way out alone for 15 s (mta.c, DELAY_ROUTE_BASE), and a
        message for 400 s. There is one way, the one to the sink, so its number is 1.
        """
        assert self._program is not None
        for command in (("resume", "route", "1"), ("schedule", "all")):
            self._jail.run(self._program, SMTPCTL, *command)

    def _lay_out(self) -> None:
        smtpd, queue = owner("uucp"), owner("news")
        # Compiled in are two accounts, an empty directory to be shut up in, a socket, the spool.
        self._jail.lay_out(
            {"opensmtpd": smtpd, "opensmtpq": queue}, {"127.0.0.1": "localhost", "::1": "localhost"}
        )
        self._jail.write("etc/mailname", f"{self.hostname}\n")
        self._jail.write("etc/smtpd.conf", self._configuration())
        self._jail.directory("tmp", 0o1777)
        self._jail.directory("var/run")
        self._jail.directory("var/lib/opensmtpd/empty")
        self._jail.directory("var/spool/smtpd", 0o711)
        for name in QUEUES:
            self._jail.directory(f"var/spool/smtpd/{name}", 0o700, queue)

    def _configuration(self) -> str:
        sink_address, sink_port = self.sink
        alike = family(sink_address) == family(self.address)
        return CONFIGURATION.format(
            address=self.address,
            port=self.port,
            hostname=self.hostname,
            domains=", ".join(f'"{name}"' for name in (self.hostname, *self.domains)),
            discard=DISCARD,
            sink=f"{bracketed(sink_address)}:{sink_port}",
            source=f' src "{self.address}"' if alike else "",
            relay_from=EVERYBODY if self.relay else STRANGERS_ONLY,
            extra=self.extra,
        )
