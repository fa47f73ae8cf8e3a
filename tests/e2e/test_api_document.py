"""The API against its own description: whatever it allows, and what it does not, does no harm."""

import asyncio
import subprocess
import sys
from pathlib import Path

from relaytest.daemons import web
from relaytest.store import api
from tests.cli.program import is_open
from tests.lab import lab_config, running, until
from tests.mta.process import fresh_address, fresh_port


async def test_every_answer_is_as_it_is_described_and_none_is_an_error(
    database, dsn, connection, tmp_path
):
    await api.add_token(connection, "fuzzer", b"t", ["request", "nominate"])
    host = fresh_address()
    port = fresh_port(host)
    config = lab_config(tmp_path, web={"listen": f"{host}:{port}", "client_requests": 100_000})
    async with running(config, database, dsn, (web.run,)):
        await until(lambda: _is_open(host, port), "the web server")
        done = await _ask(f"http://{host}:{port}/api/v1/openapi.json", tmp_path)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert "Tested: 8" in done.stdout


async def _is_open(host: str, port: int) -> bool | None:
    return is_open(f"{host}:{port}") or None


async def _ask(url: str, folder: Path) -> subprocess.CompletedProcess[str]:
    checks = "not_a_server_error,response_schema_conformance,content_type_conformance"
    words = ["run", url, "-H", "Authorization: Bearer t", "--max-examples", "25"]
    words += ["--checks", checks, "--no-color", "--phases", "coverage,fuzzing"]
    return await asyncio.to_thread(
        subprocess.run,
        [str(Path(sys.executable).parent / "st"), *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
