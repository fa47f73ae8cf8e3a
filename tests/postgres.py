"""A PostgreSQL for one run of the tests: gone afterwards, however the run ends.

Another process keeps it, and ends it when its standard input closes. The kernel closes that for
a killed run as well; and no event loop of the tests is involved.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from relaytest.core.errors import ClusterError
from relaytest.store.cluster import Cluster

ROOT = Path(__file__).parents[1]


@contextlib.contextmanager
def temporary_cluster(binaries: Path | None = None) -> Iterator[Cluster]:
    """Yield a running, forgetful cluster in a temporary folder: use its `dsn`, never `stop` it.

    Args:
        binaries: The server to use; else $RELAYTEST_PG_BIN, else what is found.

    Raises:
        ClusterError: There is no server, or it does not start.
    """
    if binaries is None and (override := os.environ.get("RELAYTEST_PG_BIN")):
        binaries = Path(override)
    folder = Path(tempfile.mkdtemp(prefix="relaytest-"))
    folder.chmod(0o711)  # the server of a root without namespaces runs as another user
    data = folder / "pg"
    with subprocess.Popen(
        [sys.executable, "-P", __file__, str(data), *([str(binaries)] if binaries else [])],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a Ctrl-C is for the tests; they close the pipe
    ) as keeper:
        assert keeper.stdout is not None
        if (said := keeper.stdout.readline()) != "ready\n":
            raise ClusterError(said + keeper.stdout.read())
        yield Cluster(data)


def _keep(data: Path, binaries: Path | None) -> None:
    cluster = Cluster(data, binaries=binaries, durable=False)
    try:
        asyncio.run(cluster.start())
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.read()
    except ClusterError as error:
        sys.stdout.write(f"{error}\n")
    finally:
        asyncio.run(cluster.stop(always=True))
        shutil.rmtree(data.parent, ignore_errors=True)


if __name__ == "__main__":
    _keep(Path(sys.argv[1]), Path(sys.argv[2]) if sys.argv[2:] else None)
