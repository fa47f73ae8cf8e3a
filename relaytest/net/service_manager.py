"""What a service manager gives a daemon and wants to hear: sd_notify(3), sd_listen_fds(3).

Without one (no variables in the environment) all of it does nothing.
"""

import contextlib
import os
import socket
from datetime import timedelta

_FIRST = 3  # the descriptor of the first socket: SD_LISTEN_FDS_START


def notify(*lines: str) -> None:
    """Tell the service manager, such as "READY=1"; whether it hears is its own business."""
    place = os.environ.get("NOTIFY_SOCKET", "")
    if place[:1] not in {"/", "@"}:
        return
    address = "\0" + place[1:] if place.startswith("@") else place
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as way,
    ):
        way.connect(address)
        way.sendall("\n".join(lines).encode())


def watchdog_interval() -> timedelta | None:
    """Return within which time the manager wants to hear "WATCHDOG=1"; None: not at all."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdecimal() or not _for_us("WATCHDOG_PID", otherwise=True):
        return None
    return timedelta(microseconds=int(microseconds))


def inherited_listeners() -> dict[str, socket.socket]:
    """Return the listening TCP sockets that the manager holds for us, by address:port.

    It keeps them while we restart, so that no client is refused; a socket that is closed here
    stays open there.
    """
    count = os.environ.get("LISTEN_FDS", "")
    if not count.isdecimal() or not _for_us("LISTEN_PID", otherwise=False):
        return {}
    found: dict[str, socket.socket] = {}
    for number in range(_FIRST, _FIRST + min(int(count), 64)):
        try:
            one = socket.socket(fileno=os.dup(number))
        except OSError:
            continue
        tcp = one.family in {socket.AF_INET, socket.AF_INET6} and one.type == socket.SOCK_STREAM
        if not tcp or found.setdefault(_endpoint(one), one) is not one:
            one.close()
    return found


def _for_us(variable: str, *, otherwise: bool) -> bool:
    """Whether the process that a variable names is this one; `otherwise` if it names none."""
    pid = os.environ.get(variable)
    return otherwise if pid is None else pid == str(os.getpid())


def _endpoint(one: socket.socket) -> str:
    host, port = one.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
