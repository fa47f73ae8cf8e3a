"""sendmail with a private configuration and queue, closed or open, in front of a sink."""

import re
from pathlib import Path

from tests.mta.jail import DISCARD, SHELL, Jail, LogSocket, owner, run
from tests.mta.packages import Program, require
from tests.mta.process import NOWHERE, Server, family, greets

SENDMAIL = "/usr/libexec/sendmail/sendmail"
MAKEMAP = "/usr/libexec/sendmail/makemap"
STRANGER = "stranger.example"  # what 127.0.0.1 is called in there, both ways; not localhost
CONFIGURATIONS = "usr/share/sendmail/cf"
ACCESS = "usr/share/sendmail/examples/db/access"

# m4 lines after Debian's own. Unprobed interfaces: a client on this machine is no stranger to a
# server that knows the machine's addresses as its own. The limits on load are for production:
# a machine that runs tests is loaded.
OPTIONS = """\
DAEMON_OPTIONS(`Family={family}, Name=MTA, Port={port}, Addr={address}')dnl
define(`confDOMAIN_NAME', `{hostname}')dnl
define(`confDONT_PROBE_INTERFACES', `True')dnl
define(`confTO_IDENT', `0')dnl
define(`confQUEUE_LA', `1000')dnl
define(`confREFUSE_LA', `1000')dnl
undefine(`confHOST_STATUS_DIRECTORY')dnl
undefine(`ALIAS_FILE')dnl
define(`SMART_HOST', `relay:{sink_address}')dnl
define(`RELAY_MAILER_ARGS', `TCP $h {sink_port}')dnl
define(`LOCAL_MAILER_PATH', `{shell}')dnl
define(`LOCAL_MAILER_ARGS', `sh -c "{discard}"')dnl
MODIFY_MAILER_FLAGS(`LOCAL', `-w')dnl
FEATURE(`accept_unresolvable_domains')dnl
FEATURE(`nocanonify')dnl
"""
OPEN = "FEATURE(`promiscuous_relay')dnl\n"  # cf.README: relay from anywhere to anywhere
NO_THROTTLE = "undefine(`confBAD_RCPT_THROTTLE')dnl\n"
NO_LIMITS = {
    "ClientConn:": "0",
    "ClientRate:": "0",
    "GreetPause:127": "0",
    "GreetPause:IPv6:::1": "0",
}

TRUST = re.compile(r"^R(?:127\.0\.0\.1|IPv6:[0:]*:1)\t+\$@ RELAY.*\n", re.MULTILINE)


class Sendmail(Server):
    """A sendmail of its own: own file system, one address, all mail out to one sink.

    Closed, it is Debian's sendmail: a stranger's RCPT is answered 550 5.7.1 Relaying denied,
    a greeting takes a second, every RCPT after three bad ones a second, and the eleventh
    connection within ten minutes is answered 421. Open, it relays for every client and has the
    same limits. Mail for `domains` and for `hostname` is accepted for any local part and
    discarded. No DNS is asked, and no TLS offered. Mail goes out with `address` as its source,
    as from a host of its own; without a sink it stays in the queue.

    Attributes:
        relay: Whether it relays for strangers.
        log: What it says to syslog.
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
        limits: bool = True,
        extra: str = "",
    ) -> None:
        """Take the arguments of all servers, and two of its own.

        Args:
            limits: Keep Debian's limits on strangers; without them it is as quick as others.
            extra: More lines of m4.
        """
        self.log = root / "maillog"
        super().__init__("sendmail", root, address, port, [self.log])
        self.hostname = hostname
        self.domains = domains
        self.sink = sink or NOWHERE
        self.relay = relay
        self.limits = limits
        self.extra = extra
        self._jail = Jail(root / "jail")
        self._syslog: LogSocket | None = None

    def start(self) -> None:
        """Start it and return once it greets."""
        program = require("sendmail")
        self._lay_out(program)
        self._jail.furnish(program, SENDMAIL, MAKEMAP, SHELL)
        self._jail.run(program, MAKEMAP, "hash", "/etc/mail/access", text=self._access(program))
        if self._syslog is None:
            self._syslog = LogSocket(self._jail.path / "dev", self.log)
        # -bD: in the foreground; -q2s: look for waiting mail every two seconds (sendmail(8)).
        self.launch(self._jail.command(SENDMAIL, "-bD", "-q2s"), program.environment)
        self.until(lambda: greets(self.address, self.port), "greet")

    def stop(self) -> None:
        """End it and all its processes; harmless if it is not running."""
        super().stop()
        self._jail.clear()
        if self._syslog is not None:
            self._syslog.close()
            self._syslog = None

    def reconfigure(self, *, relay: bool) -> None:
        """Open or close it, and return when the new rule holds for everybody.

        A restart with the same queue: on SIGHUP sendmail starts itself anew just as well, and a
        restart leaves no session behind that keeps the old rule.
        """
        self.stop()
        self.relay = relay
        self.start()

    def _lay_out(self, program: Program) -> None:
        trusted = owner("uucp")
        self._jail.lay_out(
            {"smmta": trusted, "mail": owner("mail")},
            {self.address: self.hostname, "127.0.0.1": STRANGER, "::1": STRANGER},
        )
        services = (program.prefix / "etc/mail/service.switch-nodns").read_text()
        self._jail.write("etc/mail/service.switch", services)
        own = (self.hostname, *self.domains, literal(self.address))
        self._jail.write("etc/mail/local-host-names", "".join(f"{name}\n" for name in own))
        self._jail.write("etc/mail/trusted-users", "")
        self._jail.write("etc/mail/sendmail.cf", self._configuration(program))
        self._jail.directory("tmp", 0o1777)
        self._jail.directory("var/run/sendmail/mta")
        self._jail.directory("var/spool/mqueue", 0o700)

    def _configuration(self, program: Program) -> str:
        """Make sendmail.cf from Debian's sendmail.mc.

        Its last rules on relaying trust the loopback addresses whatever the access map says.
        """
        m4 = program.prefix / "usr/bin/m4"
        made = run((m4, "-"), program.environment, self._source(program))
        return TRUST.sub("", made)

    def _source(self, program: Program) -> str:
        """Debian's sendmail.mc, its files where they are, with our lines before the mailers."""
        files = program.prefix / CONFIGURATIONS
        text = (files / "debian/sendmail.mc").read_text()
        text = re.sub(r"^(DAEMON_OPTIONS|include\(`/etc).*\n", "", text, flags=re.MULTILINE)
        parts = [f"include({quoted(files / name)})" for name in ("m4/cf.m4", "debian/autoconf.m4")]
        found = f"define(`_CF_DIR_', {quoted(f'{files}/')})" + "".join(parts)
        text = text.replace(f"include(`/{CONFIGURATIONS}/m4/cf.m4')", found)
        return text.replace("MAILER_DEFINITIONS\n", f"{self._options()}MAILER_DEFINITIONS\n", 1)

    def _options(self) -> str:
        sink_address, sink_port = self.sink
        options = OPTIONS.format(
            family=protocol(self.address),
            address=self.address,
            port=self.port,
            hostname=self.hostname,
            sink_address=literal(sink_address),
            sink_port=sink_port,
            shell=SHELL,
            discard=DISCARD,
        )
        if family(sink_address) == family(self.address):
            source = f"Family={protocol(self.address)}, Addr={self.address}"
            options += f"CLIENT_OPTIONS({quoted(source)})dnl\n"
        options += "" if self.limits else NO_THROTTLE
        return options + (OPEN if self.relay else "") + self.extra

    def _access(self, program: Program) -> str:
        """Debian's access map without its trust in this machine."""
        lines = (program.prefix / ACCESS).read_text().splitlines()
        entries = dict(line.split(None, 1) for line in lines if line and line[0] != "#")
        kept = {key: value for key, value in entries.items() if not key.endswith((":127", "::1"))}
        kept |= {} if self.limits else NO_LIMITS
        return "".join(f"{key}\t{value}\n" for key, value in kept.items())


def quoted(text: str | Path) -> str:
    """Quote a text for m4(1)."""
    return f"`{text}'"


def protocol(address: str) -> str:
    """Name the address family as DAEMON_OPTIONS has it."""
    return "inet6" if ":" in address else "inet"


def literal(address: str) -> str:
    """Write an address as in an envelope (RFC 5321 section 4.1.3)."""
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"
