"""Settings: the only place that reads the environment.

Every field can be set by `TLEG_<NAME>`; `tleg serve`'s options win over it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import quote, urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError
from redis.connection import parse_url

from service.domain.export import MAX_EXPORTED_BYTES
from service.domain.invalid_value import invalid_value_message
from tleg_core.errors import ConfigError
from tleg_core.learngene import MAX_LEARNGENE_BYTES


class Settings(BaseSettings):
    """What an operator decides about a server."""

    model_config = SettingsConfigDict(env_prefix="TLEG_", frozen=True, extra="ignore")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="TCP port to listen on; 0 picks a free one.")
    data_dir: Path = Field(
        Path("~/.local/share/tleg"),
        description="Folder for everything that must outlive a restart, the embedded Redis included.",
    )
    redis_password: SecretStr | None = Field(
        None, description="The password of the Redis at TLEG_REDIS_URL, if that holds none; as it is, not percent-encoded."
    )
    redis_url: str | None = Field(
        None,
        validate_default=True,
        description="A Redis to use; without one, a private Redis is started in the data folder.",
    )
    learngenes: tuple[Path, ...] = Field((), description="Learngene files to serve beside the shipped ones.")
    shipped: bool = Field(True, description="Whether the learngenes shipped with the package are served.")
    store_url: str | None = Field(
        None,
        description="Where data sets, checkpoints, fine-tuned weights and exports lie: file:///…, s3://bucket/…, gs://… or "
        "az://…; without one, a folder in the data folder.",
    )
    workers: int = Field(1, ge=0, le=64, description="Fine-tuning workers that `tleg serve` runs beside the API.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where a worker trains: auto, cpu or cuda.")
    only: Literal["exports"] | None = Field(
        None, description="What a worker takes where it is not to take every job: exports, which then wait for no training."
    )
    heartbeat_s: float = Field(
        30.0, ge=0.5, le=3600, description="Seconds after which a worker that is silent counts as dead, and its job moves on."
    )
    max_deaths: int = Field(
        3, ge=1, le=100, description="Times that a job may end its worker without progress in between before it fails."
    )
    checkpoint_s: float = Field(
        30.0, ge=0, le=3600, description="Seconds of training after which a job's state is saved; 0 saves after every step."
    )
    pulse_file: Path | None = Field(
        None, description="A file that `tleg worker` touches every few seconds while it is well, for health checks."
    )
    max_body_bytes: int = Field(1024 * 1024, ge=1024, description="Largest JSON body accepted, in bytes.")
    max_upload_bytes: int = Field(10 * 1024**3, ge=1024, description="Largest data set upload accepted, in bytes.")
    max_dataset_images: int = Field(2_000_000, ge=1, description="Most images that a data set may have.")
    max_learngene_bytes: int = Field(
        512 * 1024**2, ge=1024, le=MAX_LEARNGENE_BYTES, description="Largest learngene that may be published, in bytes."
    )
    max_published_bytes: int = Field(
        4 * 1024**3, ge=1024, description="Bytes that all published learngenes may have; each server holds them in memory."
    )
    max_exported_bytes: int = Field(
        MAX_EXPORTED_BYTES,
        ge=1024,
        description="Bytes that all exports of models may have; above it the oldest go, until somebody asks for them again.",
    )
    max_image_pixels: int = Field(
        50_000_000,
        ge=1,
        le=89_478_485,  # above it Pillow warns, and above twice that it refuses
        description="Most pixels that an image of a data set may have.",
    )
    upload_idle_s: float = Field(60.0, gt=0, description="Seconds that an upload may pause before it is given up.")
    drain_timeout_s: int = Field(30, ge=0, description="Seconds that running downloads get to finish on shutdown.")
    access_log: bool = Field(False, description="Whether each request is logged.")
    log_level: Literal["critical", "error", "warning", "info", "debug"] = Field(
        "info", description="critical, error, warning, info or debug."
    )

    @field_validator("redis_url")
    @classmethod
    def _is_redis_url(cls, url: str | None, known: ValidationInfo) -> str | None:
        password: SecretStr | None = known.data.get("redis_password")
        if url is None:
            if password:
                raise ValueError("TLEG_REDIS_PASSWORD is set, and no URL to use it with")
            return None
        parse_url(url)  # type: ignore[no-untyped-call]  # raises ValueError
        parts = urlsplit(url)
        if not password or parts.password:
            return url
        quoted = quote(password.get_secret_value(), safe="")
        return parts._replace(netloc=f"{parts.username or ''}:{quoted}@{parts.netloc.rpartition('@')[2]}").geturl()

    @property
    def object_store_url(self) -> str:
        """The object store's URL, the default included."""
        return self.store_url or (self.data_dir.expanduser().absolute() / "objects").as_uri()

    @classmethod
    def load(cls, **given: Any) -> Self:
        """Return the settings of the environment, with what a command's options give (and not None) in their place.

        Raises:
            ConfigError: A value is outside its limits; it names the option or the variable.
        """
        options = {name: value for name, value in given.items() if value is not None}
        try:
            return cls(**options)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            place = f"--{name.replace('_', '-')}" if name in options else f"TLEG_{name.upper()}"
            raise ConfigError(place, invalid_value_message(first)) from None
        except SettingsError:  # of the only setting that is no plain value
            raise ConfigError("TLEG_LEARNGENES", 'must be a JSON list of paths, such as ["a.safetensors"]') from None


class ClientSettings(BaseSettings):
    """What a user decides about a client."""

    model_config = SettingsConfigDict(env_prefix="TLEG_", frozen=True, extra="ignore")

    url: str = Field("http://127.0.0.1:8000", description="The server that client commands talk to.")
