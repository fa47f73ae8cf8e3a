"""What systemd hands us and hears of us, by its documented protocol."""

import os
import socket
from datetime import timedelta
from pathlib import Path

import pytest

from relaytest.net import service_manager
from relaytest.net.service_manager import hold, inherited, notify, take, watchdog_interval
from tests.mta.process import fresh_address, fresh_port


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
    assert list(inherited()) == [held]
    for _ in range(2):  # as often as it is asked
        found = take([held, "127.0.0.1:1"])
        assert list(found) == [held]
        found[held].close()


def test_what_we_hold_listens_on_when_who_served_there_has_ended(monkeypatch):
    monkeypatch.setattr(service_manager, "_held", {})
    host = fresh_address()
    place = f"{host}:{fresh_port(host)}"
    hold([place])
    hold([place])
    for _ in range(2):
        take([place])[place].close()
        socket.create_connection((host, int(place.rpartition(":")[2])), timeout=5).close()
    service_manager._held[place].close()


def test_what_the_manager_holds_is_not_opened_once_more(monkeypatch, held):
    monkeypatch.setattr(service_manager, "_held", {})
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    hold([held])
    assert service_manager._held == {}


def test_a_place_that_is_taken_is_told(monkeypatch):
    monkeypatch.setattr(service_manager, "_held", {})
    with (
        socket.create_server((fresh_address(), 0)) as other,
        pytest.raises(OSError, match="in use"),
    ):
        hold([f"{other.getsockname()[0]}:{other.getsockname()[1]}"])


@pytest.mark.parametrize(("count", "pid"), [("1", "1"), ("", "us"), ("x", "us"), ("1", None)])
def test_sockets_of_others_are_not_taken(monkeypatch, held, count, pid):
    monkeypatch.setenv("LISTEN_FDS", count)
    if pid:
        monkeypatch.setenv("LISTEN_PID", str(os.getpid()) if pid == "us" else pid)
    assert inherited() == {}
