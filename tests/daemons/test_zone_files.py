"""Zone files: how many entries differ, and a serial that only grows."""

from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relaytest.daemons import zone_files
from relaytest.daemons.zone_files import changed_entries, count_entries, next_serial

HEAD = """$SOA 300 ns.example hostmaster.example 0 1h 15m 2w 300
$TIMESTAMP 2026:01:02:03:04:05 2026:01:03:03:04:05
:127.0.0.2:Open relay, tested and confirmed: $
!127.0.0.1
127.0.0.2 :2:Test entry (RFC 5782), no real listing
::ffff:7f00:2 :2:Test entry (RFC 5782), no real listing
"""
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def written(folder: Path, name: str, addresses) -> Path:
    file = folder / name
    lines = [f"{ip_address(one)}\n" for one in sorted(addresses)]
    file.write_text(HEAD + "".join(lines))
    return file


@given(
    st.sets(st.integers(0, 60), max_size=40),
    st.sets(st.integers(0, 60), max_size=40),
    st.sampled_from([0, 3, 1000]),
    st.sampled_from([0x0B000000, 0x20010DB8 << 96]),
    st.sampled_from([(1 << 20, 1 << 10, 1), (16, 1), (1,)]),
)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_entries_that_only_one_file_has_are_counted(tmp_path, before, after, most, base, steps):
    old = written(tmp_path, "old", (base + 97 * one for one in before))
    new = written(tmp_path, "new", (base + 97 * one for one in after))
    assert count_entries(old) == len(before)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zone_files, "_STEPS", steps)
        assert changed_entries(old, new, most) == min(len(before ^ after), most + 1)


def test_a_file_that_somebody_wrote_is_compared_all_the_same(tmp_path):
    old, new = tmp_path / "old", written(tmp_path, "new", [0x0B000001])
    old.write_bytes(b"# mine\n11.0.0.0/24\nno address\n\xff\n\n11.0.0.1")
    assert changed_entries(old, new, 100) == 2  # the network and the octet; a blank is no entry


def test_no_file_has_no_entries(tmp_path):
    assert count_entries(tmp_path / "none") == 0


def test_the_first_serial_is_the_time(tmp_path):
    assert next_serial(tmp_path / "none", NOW) == int(NOW.timestamp())


def test_a_serial_grows_whatever_the_clock_says(tmp_path):
    file = tmp_path / "zone"
    file.write_text("$TTL 300\n@ SOA ns. host. 4000000000 3600 900 1209600 300\n")
    assert next_serial(file, NOW) == 4000000001


def test_a_file_that_a_person_has_written_in_does_not_stop_the_publisher(tmp_path):
    file = tmp_path / "zone"
    file.write_text("; geändert\n@ SOA ns. host. 4000000000 3600 900 1209600 300\n", "utf-8")
    assert next_serial(file, NOW) == 4000000001


@pytest.mark.parametrize("last", [2**32 - 1, 99999999999])
def test_a_serial_stays_within_its_32_bits(tmp_path, last):
    file = tmp_path / "zone"
    file.write_text(f"@ SOA ns. host. {last} 3600 900 1209600 300\n")
    assert next_serial(file, NOW) == int(NOW.timestamp())
