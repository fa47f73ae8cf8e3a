"""The watch over DNS: what was right and is wrong after a publication, is put back."""

import pytest

from relaytest.core.zone import apex_of
from relaytest.daemons import dns_watch
from relaytest.daemons.dns_watch import DnsWatch
from relaytest.store.database import Bell
from tests.lab import lab_config


class Files:
    """Counts what is asked of it."""

    def __init__(self, config) -> None:
        self.apex = apex_of(config.publish)
        self.published = Bell()
        self.can_roll_back = False
        self.done: list[str] = []
        self.full = False

    async def roll_back(self) -> None:
        self.done.append("back")
        self.can_roll_back = False
        if self.full:
            raise OSError(28, "No space left on device")

    def publish_again(self) -> None:
        self.done.append("again")


@pytest.fixture
def files(tmp_path) -> Files:
    return Files(lab_config(tmp_path))


@pytest.fixture
def watch(files, tmp_path) -> DnsWatch:
    return DnsWatch(lab_config(tmp_path), files)


@pytest.fixture
def dns(monkeypatch):
    """Say what the DNS server answers."""

    def says(*wrong: str) -> None:
        async def failing(*_):
            return list(wrong)

        monkeypatch.setattr(dns_watch, "failing_tests", failing)

    says()
    return says


async def look(watch: DnsWatch, times: int) -> list[float]:
    return [(await watch.look()).total_seconds() for _ in range(times)]


async def test_files_with_which_dns_is_wrong_are_put_back_once(watch, files, dns):
    await watch.begin()
    files.can_roll_back = True
    assert await look(watch, 2) == [60, 60]
    dns("2.0.0.127: not listed")
    assert await look(watch, 2) == [5, 5]
    assert files.done == []
    assert await look(watch, 3) == [5, 5, 5]
    assert files.done == ["back"]
    dns()
    assert await look(watch, 1) == [60]
    dns("2.0.0.127: not listed")
    assert await look(watch, 9) == [60] * 9
    assert files.done == ["back"]


async def test_a_server_that_is_silent_while_it_reads_its_files_is_right(watch, files, dns):
    await watch.begin()
    files.can_roll_back = True
    for _ in range(5):
        dns("no answer")
        await look(watch, 2)
        dns()
        await look(watch, 1)
    assert files.done == []


async def test_if_dns_stays_wrong_it_was_not_the_files(watch, files, dns, monkeypatch):
    await watch.begin()
    files.can_roll_back = True
    dns("no answer")
    await look(watch, 3)
    assert files.done == ["back"]
    monkeypatch.setattr(dns_watch, "_HEAL", 0.0)
    await look(watch, 1)
    assert files.done == ["back", "again"]
    files.can_roll_back = True  # it has been published
    await look(watch, 9)
    assert files.done == ["back", "again"]


async def test_what_was_wrong_before_is_not_the_fault_of_the_files(watch, files, dns):
    dns("no answer")
    await watch.begin()
    files.can_roll_back = True
    assert await look(watch, 9) == [60] * 9
    assert files.done == []


async def test_a_full_disk_does_not_end_the_watch(watch, files, dns, logged):
    await watch.begin()
    files.can_roll_back = files.full = True
    dns("no answer")
    await look(watch, 3)
    assert "zone not rolled back" in {one["event"] for one in logged}
