"""What systemd hands us and hears of us, by its documented protocol."""

import os
import socket
from datetime import timedelta
from pathlib import Path

import pytest

from relaytest.net import service_manager
from relaytest.net.service_manager import inherited_listeners, notify, watchdog_interval


@pytest.fixture
def manager(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield heard


def test_the_manager_hears_each_line(manager):
    notify("READY=1", "STATUS=fine")
    assert manager.recv(1000) == b"READY=1\nSTATUS=fine"


def test_an_abstract_socket_will_do(monkeypatch):
    name = f"relaytest-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        notify("READY=1")
        assert heard.recv(100) == b"READY=1"


@pytest.mark.parametrize("place", ["", "x", "/nowhere/notify", "@nobody-listens"])
def test_without_a_manager_nothing_happens(monkeypatch, place):
    monkeypatch.setenv("NOTIFY_SOCKET", place)
    notify("READY=1")


@pytest.mark.parametrize(
    ("wanted", "pid", "interval"),
    [
        ("2000000", "us", timedelta(seconds=2)),
        ("2000000", None, timedelta(seconds=2)),
        ("2000000", "another", None),
        ("", "us", None),
        ("x", "us", None),
    ],
)
def test_the_watchdog_is_ours_or_not(monkeypatch, wanted, pid, interval):
    monkeypatch.setenv("WATCHDOG_USEC", wanted)
    if pid:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "us" else "1")
    assert watchdog_interval() == interval


def free_descriptors() -> int:
    """The first of three that nobody has; a test before this one may have many open."""
    taken = {int(one.name) for one in Path("/proc/self/fd").iterdir()}
    return next(n for n in range(100, 10_000) if not {n, n + 1, n + 2} & taken)


@pytest.fixture
def held(monkeypatch):
    """A TCP and another socket, and the first once more, one after the other."""
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as other:
        first = free_descriptors()
        for number, one in enumerate((tcp, other, tcp), first):
            os.dup2(one.fileno(), number)
        monkeypatch.setattr(service_manager, "_FIRST", first)
        yield f"127.0.0.1:{tcp.getsockname()[1]}"
        os.closerange(first, first + 3)


def test_listening_sockets_come_by_their_place(monkeypatch, held):
    monkeypatch.setenv("LISTEN_FDS", "3")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    found = inherited_listeners()
    assert list(found) == [held]
    for one in (*found.values(), *inherited_listeners().values()):  # as often as it is asked
        one.close()


@pytest.mark.parametrize(("count", "pid"), [("1", "1"), ("", "us"), ("x", "us"), ("1", None)])
def test_sockets_of_others_are_not_taken(monkeypatch, held, count, pid):
    monkeypatch.setenv("LISTEN_FDS", count)
    if pid:
        monkeypatch.setenv("LISTEN_PID", str(os.getpid()) if pid == "us" else pid)
    assert inherited_listeners() == {}
