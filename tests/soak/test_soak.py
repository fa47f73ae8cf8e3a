"""A short soak; `make soak` is the long one."""

from tests.cli.program import temporary_home
from tests.mta.packages import require
from tests.soak.run import soak


async def test_everything_breaks_once_and_the_counts_are_right():
    require("rbldnsd")
    with temporary_home() as folder:
        ledger = await soak(folder, targets=90, minutes=0.1, say=print)
    assert [one for one in ledger.checks if not one[2]] == []
    assert len(ledger.faults) == 14
