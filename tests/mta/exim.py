"""Exim with a private configuration and spool, closed or open, in front of a sink."""

import os
import pwd
from pathlib import Path

from tests.mta.packages import EXIM_ACCOUNT, Program, nss_wrapper, require
from tests.mta.process import NOWHERE, Server, account, greets, unprivileged

STRANGERS_ONLY = "127.0.0.200"  # nobody connects from there, so 127.0.0.1 is a stranger too
EVERYBODY = "*"

# Debian's exim4.conf (exim4-config 4.96) with what concerns relaying kept word for word: the
# order of the RCPT rules is what a tester meets in the wild. Without: DNS, ident, TLS, callouts.
CONFIGURATION = r"""
primary_hostname = {hostname}
domainlist local_domains = @ : localhost{domains}
domainlist relay_to_domains =
hostlist relay_from_hosts = <; {relay_from}
local_interfaces = <; {address}
daemon_smtp_ports = {port}
daemon_startup_retries = 0
spool_directory = {root}/spool
log_file_path = {root}/log/%slog
pid_file_path = {root}/spool/exim.pid
exim_path = {program}
keep_environment = LD_LIBRARY_PATH : LD_PRELOAD : ^NSS_WRAPPER_
deliver_drop_privilege
.ifdef _OPT_MAIN_NOTIFIER_SOCKET
notifier_socket =
.endif
prdr_enable = true
host_lookup =
rfc1413_hosts =
acl_smtp_mail = acl_check_mail
acl_smtp_rcpt = acl_check_rcpt
acl_smtp_data = acl_check_data
{extra}

begin acl
acl_check_mail:
  accept

acl_check_rcpt:
  accept
    hosts = :
    control = dkim_disable_verify
  warn
    control = dkim_disable_verify
  deny
    domains = +local_domains
    local_parts = ^[.] : ^.*[@%!/|`#&?]
    message = restricted characters in address
  deny
    domains = !+local_domains
    local_parts = ^[./|] : ^.*[@%!`#&?] : ^.*/\\.\\./
    message = restricted characters in address
  accept
    local_parts = postmaster
    domains = +local_domains : +relay_to_domains
  deny
    condition = ${{if and {{{{>{{$rcpt_count}}{{10}}}}\
                {{<{{$recipients_count}}{{${{eval:$rcpt_count/2}}}}}}}}}}
    message = Rejected for too many bad recipients
  accept
    hosts = +relay_from_hosts
    control = submission/sender_retain
    control = dkim_disable_verify
  accept
    authenticated = *
    control = submission/sender_retain
    control = dkim_disable_verify
  require
    message = relay not permitted
    domains = +local_domains : +relay_to_domains
  require
    verify = recipient
  accept

acl_check_data:
  deny
    condition = ${{if > {{$max_received_linelength}}{{998}}}}
    message = maximum allowed line length is 998 octets, got $max_received_linelength
  deny
    !verify = header_syntax
    message = header syntax
  accept

begin routers
local:
  driver = redirect
  domains = +local_domains
  data = :blackhole:

# self = send: a sink on loopback looks to Exim like itself, and it would freeze the message.
sink:
  driver = manualroute
  route_list = * "<+ {sink_address}" byname
  transport = to_sink
  self = send

begin transports
to_sink:
  driver = smtp
  port = {sink_port}
  allow_localhost
  interface = <; {address}

begin retry
*  *  F,1h,2s
"""

# Debian offers no TLS by default. Exim still makes itself a key at every start, which takes up
# to a second, unless a certificate is named; the name is not looked at before somebody asks.
NO_TLS = """\
tls_advertise_hosts =
tls_certificate = /nonexistent
"""


class Exim(Server):
    """An Exim of its own: own spool, one address, all mail out to one sink.

    Closed, it is Debian's Exim: a stranger's RCPT is answered 550 relay not permitted, and
    more than ten commands without mail end the session. Open, it trusts every client, but a
    local part with `%`, `!` or the like is refused even then, as Debian has it.
    Mail for `domains` and for `hostname` is accepted for any local part and discarded.
    No DNS is asked, and no TLS offered unless `extra` sets tls_advertise_hosts. Mail goes out
    with `address` as its source, as from a host of its own; without a sink it stays in the
    spool.

    Attributes:
        relay: Whether it relays for strangers.
        log: Its main log.
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
        self.log = root / "log" / "mainlog"
        super().__init__("Exim", root, address, port, [root / "log" / "paniclog", self.log])
        self.hostname = hostname
        self.domains = domains
        self.sink = sink or NOWHERE
        self.relay = relay
        self.extra = extra

    def start(self) -> None:
        """Start it and return once it greets."""
        program = require("exim")
        uid, gid, environment = self._identity(program)
        for name in ("spool", "log"):
            directory = self.root / name
            directory.mkdir(parents=True, exist_ok=True)
            os.chown(directory, uid, gid)
        configuration = self.root / "exim.conf"
        configuration.write_text(self._configuration(program.path))
        configuration.chmod(0o644)  # Exim refuses a file that others may write, whatever umask
        command = (program.path, "-C", configuration, "-bdf", "-q2s")
        self.launch(unprivileged(command, uid, gid), environment)
        self.until(lambda: greets(self.address, self.port), "greet")

    def reconfigure(self, *, relay: bool) -> None:
        """Open or close it, and return when the new rule holds for everybody.

        A restart with the same spool: on SIGHUP Exim would listen anew just as well, and a
        restart leaves no session behind that keeps the old rule.
        """
        self.stop()
        self.relay = relay
        self.start()

    def _identity(self, program: Program) -> tuple[int, int, dict[str, str]]:
        """Choose uid and gid, and make Exim take them for its own account's.

        Debian's binary looks up its account by name before all else and exits without it.
        nss_wrapper answers that look-up from a file, so no account needs to be made.
        """
        wrapper = nss_wrapper(program.prefix)
        if wrapper is None:
            entry = pwd.getpwnam(EXIM_ACCOUNT)
            return entry.pw_uid, entry.pw_gid, program.environment
        uid, gid = account()
        passwd, group = self.root / "passwd", self.root / "group"
        self.root.mkdir(parents=True, exist_ok=True)
        passwd.write_text(
            "root:x:0:0::/:/bin/sh\n" + f"{EXIM_ACCOUNT}:x:{uid}:{gid}::/nonexistent:/bin/sh\n"
        )
        group.write_text(f"root:x:0:\n{EXIM_ACCOUNT}:x:{gid}:\n")
        names = {
            "LD_PRELOAD": str(wrapper),
            "NSS_WRAPPER_PASSWD": str(passwd),
            "NSS_WRAPPER_GROUP": str(group),
        }
        return uid, gid, program.environment | names

    def _configuration(self, program: Path) -> str:
        return CONFIGURATION.format(
            root=self.root,
            program=program,
            address=self.address,
            port=self.port,
            hostname=self.hostname,
            domains="".join(f" : {domain}" for domain in self.domains),
            relay_from=EVERYBODY if self.relay else STRANGERS_ONLY,
            extra=self.extra if "tls_advertise_hosts" in self.extra else NO_TLS + self.extra,
            sink_address=self.sink[0],
            sink_port=self.sink[1],
        )
