"""What a service manager gives a daemon and wants to hear: sd_notify(3), sd_listen_fds(3).

Without one (no variables in the environment) nobody hears, and nothing is given.
"""

import contextlib
import os
import socket
from collections.abc import Iterable
from datetime import timedelta

_FIRST = 3  # the descriptor of the first socket: SD_LISTEN_FDS_START
_BACKLOG = 512
_held: dict[str, socket.socket] = {}  # by address:port; open until the process ends


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


def hold(places: Iterable[str]) -> None:
    """Listen at each address:port for the life of the process, unless the manager does.

    Whoever serves there takes a copy, and may end and begin anew: clients wait meanwhile.

    Raises:
        OSError: An address is taken or not ours.
    """
    for place in places:
        if place not in _held and place not in inherited():
            host, _, port = place.rpartition(":")
            family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
            address = (host.strip("[]"), int(port))
            _held[place] = socket.create_server(address, family=family, backlog=_BACKLOG)


def take(places: Iterable[str]) -> dict[str, socket.socket]:
    """Return copies of the listening sockets that are held at some of these places."""
    found = {}
    for place in places:
        number = inherited().get(place)
        if number is not None:
            found[place] = socket.socket(fileno=os.dup(number))
        elif place in _held:
            found[place] = _held[place].dup()
    return found


def inherited() -> dict[str, int]:
    """Return the listening TCP sockets that the manager holds for us, by address:port.

    It keeps them while we restart, so that no client is refused.
    """
    count = os.environ.get("LISTEN_FDS", "")
    if not count.isdecimal() or not _for_us("LISTEN_PID", otherwise=False):
        return {}
    found: dict[str, int] = {}
    for number in range(_FIRST, _FIRST + min(int(count), 64)):
        try:
            copy = socket.socket(fileno=os.dup(number))
        except OSError:
            continue
        with copy:
            if copy.family in {socket.AF_INET, socket.AF_INET6} and copy.type == socket.SOCK_STREAM:
                found.setdefault(_endpoint(copy), number)
    return found


def _for_us(variable: str, *, otherwise: bool) -> bool:
    """Whether the process that a variable names is this one; `otherwise` if it names none."""
    pid = os.environ.get(variable)
    return otherwise if pid is None else pid == str(os.getpid())


def _endpoint(one: socket.socket) -> str:
    host, port = one.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
