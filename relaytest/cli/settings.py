"""Reading the configuration: a TOML file, then RELAYTEST_SECTION__KEY in the environment over it.

In the environment a list is written as JSON. A variable that names no option is refused as a key
of the file is: a setting that was meant to keep somebody out must not be lost to a typing error.
"""

import json
import os
import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from relaytest.core.config import Config, complaints, options
from relaytest.core.errors import ConfigError

SYSTEM_FILE = Path("/etc/relaytest/relaytest.toml")
_PREFIX = "RELAYTEST_"
_NO_OPTIONS = {  # the last one is read by the tests only
    f"{_PREFIX}{name}" for name in ("CONFIG", "DATA", "PG_BIN", "REQUIRE_SERVERS")
}

Place = tuple[str | int, ...]


def load(file: Path | None) -> Config:
    """Read the configuration.

    Args:
        file: As given with --config or $RELAYTEST_CONFIG; None: SYSTEM_FILE if it is there.

    Raises:
        ConfigError: The file cannot be read or is wrong; a line for each mistake.
    """
    if file is None:
        named = os.environ.get("RELAYTEST_CONFIG")
        file = Path(named) if named else SYSTEM_FILE if SYSTEM_FILE.exists() else None
    values = _read(file) if file is not None else {}
    _put_credentials(values)
    variables = _variables(os.environ)
    _put_over(values, variables)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        lines = (
            _source(mistake, variables, file) + line + _hint(mistake, variables)
            for mistake, line in zip(error.errors(), complaints(error), strict=True)
        )
        raise ConfigError("\n".join(lines)) from None


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not TOML: {error}") from None


def _variables(environment: Mapping[str, str]) -> dict[Place, str]:
    """Return the name of the variable for each place, ("sink", "listen"), that has one."""
    return {
        tuple(name.removeprefix(_PREFIX).lower().split("__", 1)): name
        for name in sorted(environment)
        if name.startswith(_PREFIX) and name not in _NO_OPTIONS
    }


def _put_over(values: dict[str, Any], variables: Mapping[Place, str]) -> None:
    """Put what the environment says over the tables of the file."""
    kinds = {key: field.annotation for key, field in options()}
    for place, name in variables.items():
        *sections, key = map(str, place)
        table = values
        for section in sections:
            table = table.setdefault(section, {})
        if isinstance(table, dict):  # else the file is wrong, and will be told so
            table[key] = _parse(os.environ[name], kinds.get(".".join(map(str, place))))


def _put_credentials(values: dict[str, Any]) -> None:
    """Put what a service manager keeps secret for us over the file (systemd's LoadCredential).

    A credential that has the name of an option, such as database.dsn, is its value.
    """
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    kinds = {key: field.annotation for key, field in options()}
    for file in sorted(Path(folder).iterdir()) if folder and Path(folder).is_dir() else ():
        section, _, key = file.name.partition(".")
        if file.name not in kinds:
            continue
        try:
            text = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"credential {file.name}: cannot be read: {error}") from None
        if isinstance(table := values.setdefault(section, {}), dict):
            table[key] = _parse(text, kinds[file.name])


def _parse(text: str, kind: object) -> object:
    """Return what a TOML file would hold; what cannot be read stays text and is refused later."""
    if get_origin(kind) is list:
        with suppress(json.JSONDecodeError):
            return json.loads(text)
    if kind is timedelta and re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    return text


def _source(mistake: ErrorDetails, variables: Mapping[Place, str], file: Path | None) -> str:
    """Tell where a mistake stands: the variable or the file."""
    at = mistake["loc"]
    unknown_section = len(at) == 1 and mistake["type"] == "extra_forbidden"
    for place, name in variables.items():
        if at[: len(place)] == place or (unknown_section and at == place[:1]):
            return f"{name}: "
    return f"{file}: " if file else ""


def _hint(mistake: ErrorDetails, variables: Mapping[Place, str]) -> str:
    by_json = mistake["type"] == "list_type" and mistake["loc"] in variables
    return '; in the environment a list is JSON, such as ["one", "two"]' if by_json else ""


def data_folder(given: Path | None) -> Path:
    """Return where `up` keeps its data: --data, $RELAYTEST_DATA, or the user's data folder."""
    if given is not None:
        return given
    if named := os.environ.get("RELAYTEST_DATA"):
        return Path(named)
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "relaytest"
