"""Postfix with a private configuration and queue, closed or open, in front of a sink."""

import grp
import os
import pwd
import signal
import subprocess
from pathlib import Path

from tests.mta.packages import Program, require
from tests.mta.process import NOWHERE, START, Server, bracketed, greets

# Postfix wants three distinct accounts that are not root. A machine without Postfix has no
# account of that name, but base-passwd has given every Debian these since ever.
OWNER = "uucp"
DROP_GROUP = "news"
DELIVERER = "nobody"

STRANGERS_ONLY = "127.0.0.200/32"  # nobody connects from there, so 127.0.0.1 is a stranger too
EVERYBODY = "0.0.0.0/0 [::]/0"
OLD = 60  # seconds; see `write_settled`

# postconf(5) SERVICES: no chroot, and no pickup, since nobody submits from the command line.
SERVICES = """\
{listen}  inet  n - n - -   smtpd
cleanup   unix  n - n - 0   cleanup
qmgr      unix  n - n 2 1   qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
rewrite   unix  - - n - -   trivial-rewrite
bounce    unix  - - n - 0   bounce
defer     unix  - - n - 0   bounce
trace     unix  - - n - 0   bounce
verify    unix  - - n - 1   verify
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n - -   proxymap
proxywrite unix - - n - 1   proxymap
smtp      unix  - - n - -   smtp
relay     unix  - - n - -   smtp
showq     unix  n - n - -   showq
error     unix  - - n - -   error
retry     unix  - - n - -   error
discard   unix  - - n - -   discard
anvil     unix  - - n - 1   anvil
scache    unix  - - n - 1   scache
postlog   unix-dgram n - n - 1 postlogd
"""

QUEUES = (
    *("incoming", "active", "deferred", "hold", "corrupt", "saved"),
    *("bounce", "defer", "trace", "flush", "private"),
)


class Postfix(Server):
    """A Postfix of its own: own queue, own accounts, one address, all mail out to one sink.

    Closed, it is Postfix as it comes: `defer_unauth_destination` answers a stranger's RCPT
    with 454 4.7.1, and ten errors in a session make it slow. Open, it trusts every client.
    Mail for `domains` and for `hostname` is accepted for any local part and discarded.
    No DNS is asked. Mail goes out with `address` as its source, as from a host of its own;
    without a sink it stays in the queue.

    Attributes:
        relay: Whether it relays for strangers.
        log: Its mail log.
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
        settings: dict[str, str] | None = None,
    ) -> None:
        self.log = root / "mail.log"
        super().__init__("Postfix", root, address, port, [self.log])
        self.hostname = hostname
        self.domains = domains
        self.sink = sink or NOWHERE
        self.relay = relay
        self.settings = settings or {}
        self._program: Program | None = None

    def start(self) -> None:
        """Start it and return once it greets."""
        self._program = require("postfix")
        self._lay_out()
        self._configure()
        arguments = ("-d", "-c", self.root / "etc")
        self.launch((self._program.path, *arguments), self._program.environment)
        self.until(lambda: greets(self.address, self.port), "greet")

    def reconfigure(self, *, relay: bool) -> None:
        """Open or close it while it runs, and return when the new rule holds for everybody.

        An smtpd that waits for a client keeps the old configuration until it notices the
        reload, so the reload is in force only when the old ones are gone. Close all sessions
        before: one that is open keeps its smtpd alive.

        Raises:
            ServerError: An old smtpd would not go, for instance because a session is open.
        """
        self.relay = relay
        self._configure()
        old = [pid for pid in self.pids() if is_smtpd(pid)]
        mark = self.log_size()
        self.send(signal.SIGHUP)
        self.until(lambda: self.logged("reload -- version", mark), "reload")
        self.until(
            lambda: not any(is_smtpd(pid) for pid in old),
            "give up its old smtpd processes (is a session still open?)",
        )

    def described(self, trouble: str) -> str:
        """Write a failure; where master could not even open its log, a tool repeats why.

        A master that finds its configuration wrong tells syslog only.
        """
        text = super().described(trouble)
        if self._program is None or self.log.exists():
            return text
        check = subprocess.run(
            (self._program.prefix / "usr/sbin/postqueue", "-c", self.root / "etc", "-p"),
            env=self._program.environment,
            capture_output=True,
            text=True,
            timeout=START,
            check=False,
        )
        return f"{text}\n--- postqueue ---\n{check.stdout}{check.stderr}"

    def _lay_out(self) -> None:
        """Make the directories that `postfix post-install` would make."""
        owner, group = pwd.getpwnam(OWNER).pw_uid, grp.getgrnam(DROP_GROUP).gr_gid
        (self.root / "etc").mkdir(parents=True, exist_ok=True)
        for name, mode, uid, gid in (
            ("data", 0o700, owner, 0),
            ("queue", 0o755, 0, 0),
            ("queue/pid", 0o755, 0, 0),
            ("queue/public", 0o710, owner, group),
            ("queue/maildrop", 0o730, owner, group),
            *((f"queue/{name}", 0o700, owner, 0) for name in QUEUES),
        ):
            directory = self.root / name
            directory.mkdir(exist_ok=True)
            os.chown(directory, uid, gid)
            directory.chmod(mode)

    def _configure(self) -> None:
        listen = f"{bracketed(self.address)}:{self.port}"
        main = "".join(f"{name} = {value}\n" for name, value in self._parameters().items())
        write_settled(self.root / "etc" / "main.cf", main)
        write_settled(self.root / "etc" / "master.cf", SERVICES.format(listen=listen))

    def _parameters(self) -> dict[str, str]:
        assert self._program is not None
        # Below /usr as Debian compiled it in, but not necessarily below the real /usr.
        files = self._program.prefix / "usr"
        sink_address, sink_port = self.sink
        both = ":" in self.address + sink_address
        return {
            "compatibility_level": "3.6",
            "queue_directory": str(self.root / "queue"),
            # Relative to the queue, where every daemon is: master opens its lock as `mail_owner`,
            # who may not pass through the directories above, which pytest closes to others.
            "data_directory": "../data",
            "command_directory": str(files / "sbin"),
            "daemon_directory": str(files / "lib/postfix/sbin"),
            "shlib_directory": str(files / "lib/postfix"),
            "meta_directory": str(self.root / "etc"),
            "mail_owner": OWNER,
            "setgid_group": DROP_GROUP,
            "default_privs": DELIVERER,
            "import_environment": "MAIL_CONFIG LD_LIBRARY_PATH LC_ALL",
            "maillog_file": str(self.log),
            "maillog_file_prefixes": str(self.root),
            # Only addresses that an interface lists are allowed here, and 127.66.1.1 is none;
            # the listener is in master.cf, and proxy_interfaces makes the address Postfix's own.
            "inet_interfaces": "loopback-only",
            "proxy_interfaces": self.address,
            "inet_protocols": "all" if both else "ipv4",
            # As a host of its own would; Postfix does so by itself except on loopback.
            bind_parameter(self.address): self.address,
            "myhostname": self.hostname,
            "myorigin": "$myhostname",
            "mydestination": ", ".join(["$myhostname", *self.domains]),
            "mynetworks": EVERYBODY if self.relay else STRANGERS_ONLY,
            "local_recipient_maps": "",
            "local_transport": "discard:",
            "alias_maps": "",
            "alias_database": "",
            "relayhost": f"[{sink_address}]:{sink_port}",
            "smtp_dns_support_level": "disabled",
            "smtp_host_lookup": "native",
            "smtpd_peername_lookup": "no",
            "queue_run_delay": "2s",
            "minimal_backoff_time": "2s",
            "maximal_backoff_time": "4s",
            **self.settings,
        }


def is_smtpd(pid: int) -> bool:
    """Say whether a process is an smtpd, as proc(5) names it."""
    try:
        return Path(f"/proc/{pid}/comm").read_text() == "smtpd\n"
    except OSError:
        return False  # it ended


def bind_parameter(address: str) -> str:
    """Name the parameter for the source address of outgoing mail."""
    return "smtp_bind_address6" if ":" in address else "smtp_bind_address"


def write_settled(path: Path, text: str) -> None:
    """Write a file that looks old, in one step.

    Postfix takes a file of the last second for one that is being written, and every daemon
    that reads it sleeps until it has cooled down (dict_load_file_xt in util/dict.c).
    """
    draft = path.with_suffix(".new")
    draft.write_text(text)
    stamp = draft.stat().st_mtime - OLD
    os.utime(draft, (stamp, stamp))
    draft.replace(path)
