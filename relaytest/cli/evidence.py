"""The evidence of a listed, or at least tested, address as files."""

from pathlib import Path
from typing import Annotated

import typer

from relaytest.cli import show
from relaytest.cli.common import AsJson, ConfigFile, DataFolder, end, transaction
from relaytest.cli.settings import load
from relaytest.core.config import Config
from relaytest.core.errors import RefusedRequestError
from relaytest.core.target import parse_address
from relaytest.daemons import dossier, shipped
from relaytest.store import pages


def evidence(
    address: str,
    out: Annotated[Path, typer.Option(help="Folder for the files; made if it is not there.")],
    public: Annotated[bool, typer.Option("--public", help="As on the page: no tokens.")] = False,
    config: ConfigFile = None,
    data: DataFolder = None,
    as_json: AsJson = False,
) -> None:
    """Write the sessions and returned messages of the deciding test into a folder."""
    try:
        parsed = parse_address(address)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None

    async def work(settings: Config) -> int:
        async with transaction(settings, data, "evidence") as connection:
            verdict = (await pages.standing_of(connection, parsed)).decisive
            found = await pages.trial_evidence(connection, verdict["trial"]) if verdict else None
        if found is None:
            raise RefusedRequestError(f"{parsed} was not tested, so there is no evidence")
        forms = shipped.battery_of(settings).by_number()
        files = dossier.files_of(found, forms, masked=public)
        out.mkdir(parents=True, exist_ok=True)
        for name, octets in files.items():
            (out / name).write_bytes(octets)
        told = {"address": str(parsed), "evidence": found.trial["id"], "files": list(files)}
        line = f"evidence {found.trial['id']}: {len(files)} files in {out}"
        print(show.as_json(told) if as_json else line)
        return 0

    end(work(load(config)))
