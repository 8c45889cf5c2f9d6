"""Settings: the only place that reads the environment.

Every field can be set by `TLEG_<NAME>`; `tleg serve`'s options win over it.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What an operator decides about a server."""

    model_config = SettingsConfigDict(env_prefix="TLEG_", frozen=True, extra="ignore")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="TCP port to listen on; 0 picks a free one.")
    data_dir: Path = Field(
        Path("~/.local/share/tleg"),
        description="Folder for everything that must outlive a restart, the embedded Redis included.",
    )
    redis_url: str | None = Field(
        None, description="A Redis to use; without one, a private Redis is started in the data folder."
    )
    learngenes: tuple[Path, ...] = Field((), description="Learngene files to serve beside the shipped ones.")
    shipped: bool = Field(True, description="Whether the learngenes shipped with the package are served.")
    max_body_bytes: int = Field(1024 * 1024, ge=1024, description="Largest JSON body accepted, in bytes.")
    drain_timeout_s: int = Field(30, ge=0, description="Seconds that running downloads get to finish on shutdown.")
    log_level: str = Field("info", description="critical, error, warning, info or debug.")


class ClientSettings(BaseSettings):
    """What a user decides about a client."""

    model_config = SettingsConfigDict(env_prefix="TLEG_", frozen=True, extra="ignore")

    url: str = Field("http://127.0.0.1:8000", description="The server that client commands talk to.")
