"""Reading the configuration: a TOML file, then the environment over it."""

import os
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from relaytest.core.config import Config, complaints
from relaytest.core.errors import ConfigError

SYSTEM_FILE = Path("/etc/relaytest/relaytest.toml")


class _Settings(Config, BaseSettings):
    """The configuration with RELAYTEST_SECTION__KEY in the environment over the file's values."""

    model_config = SettingsConfigDict(
        env_prefix="RELAYTEST_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the library's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings


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
    try:
        return _Settings(**values)
    except ValidationError as error:
        where = f"{file}: " if file else ""
        raise ConfigError("\n".join(f"{where}{line}" for line in complaints(error))) from None
    except ValueError as error:  # pydantic-settings: a list or number in the environment
        raise ConfigError(f"environment: {error}; lists are written as JSON") from None


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not TOML: {error}") from None


def data_folder(given: Path | None) -> Path:
    """Return where `up` keeps its data: --data, $RELAYTEST_DATA, or the user's data folder."""
    if given is not None:
        return given
    if named := os.environ.get("RELAYTEST_DATA"):
        return Path(named)
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "relaytest"
