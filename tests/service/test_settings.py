"""Settings: read from the environment, checked, and documented."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError
from redis.connection import parse_url

from service.settings import ClientSettings, Settings
from tleg_core.errors import ConfigError

ROOT = Path(__file__).parents[2]


def test_every_setting_can_be_set_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`TLEG_<NAME>` sets it; a list is JSON."""
    values = {
        "host": "::1",
        "port": "9000",
        "data_dir": "/srv/tleg",
        "redis_password": "secret",
        "redis_url": "redis://db:6379/0",
        "learngenes": '["/a.safetensors", "/b.safetensors"]',
        "shipped": "false",
        "store_url": "s3://bucket/tleg",
        "workers": "2",
        "device": "cpu",
        "only": "exports",
        "heartbeat_s": "10",
        "max_deaths": "5",
        "checkpoint_s": "0",
        "pulse_file": "/run/tleg/pulse",
        "max_body_bytes": "2048",
        "max_upload_bytes": "4096",
        "max_dataset_images": "10",
        "max_learngene_bytes": "4096",
        "max_published_bytes": "8192",
        "max_exported_bytes": "16384",
        "max_image_pixels": "1000",
        "upload_idle_s": "1.5",
        "drain_timeout_s": "5",
        "access_log": "true",
        "log_level": "debug",
    }
    assert set(values) == set(Settings.model_fields)
    for name, value in values.items():
        monkeypatch.setenv(f"TLEG_{name.upper()}", value)
    settings = Settings()
    assert (settings.port, settings.shipped, settings.data_dir) == (9000, False, Path("/srv/tleg"))
    assert settings.learngenes == (Path("/a.safetensors"), Path("/b.safetensors"))


@pytest.mark.parametrize(
    ("name", "value"), [("port", "65536"), ("port", "x"), ("max_body_bytes", "0"), ("drain_timeout_s", "-1")]
)
def test_a_bad_setting_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """The error says which."""
    monkeypatch.setenv(f"TLEG_{name.upper()}", value)
    with pytest.raises(ValidationError, match=name):
        Settings()
    with pytest.raises(ConfigError, match=rf"^TLEG_{name.upper()}: "):
        Settings.load(host="127.0.0.1")


@pytest.mark.parametrize(("name", "value"), [("only", "x"), ("device", "tpu"), ("data_dir", 3)])
def test_a_bad_option_is_refused_by_its_own_name(monkeypatch: pytest.MonkeyPatch, name: str, value: object) -> None:
    """Not by that of a variable, which the user did not set."""
    monkeypatch.setenv("TLEG_ONLY", "exports")
    with pytest.raises(ConfigError, match=f"^--{name.replace('_', '-')}: "):
        Settings.load(**{name: value})


@pytest.mark.parametrize("password", ["plain", "a@b/c:%d #?&é\"\\$'", "%41"])
@pytest.mark.parametrize("url", ["redis://db:6379/0", "rediss://user@db", "redis://[::1]:1", "unix:///run/redis.sock?db=2"])
def test_a_password_of_any_characters_reaches_redis(monkeypatch: pytest.MonkeyPatch, url: str, password: str) -> None:
    """redis-py reads from the URL the password that was set, and everything else as it stood there."""
    monkeypatch.setenv("TLEG_REDIS_URL", url)
    monkeypatch.setenv("TLEG_REDIS_PASSWORD", password)
    settings = Settings()
    assert parse_url(settings.redis_url) == parse_url(url) | {"password": password}


def test_the_password_of_the_url_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL that holds one is left as it is."""
    monkeypatch.setenv("TLEG_REDIS_PASSWORD", "other")
    assert Settings(redis_url="redis://:own@db").redis_url == "redis://:own@db"


def test_a_password_without_a_redis_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than a private Redis, which has none, where another was meant."""
    monkeypatch.setenv("TLEG_REDIS_PASSWORD", "secret")
    with pytest.raises(ConfigError, match=r"TLEG_REDIS_URL.*TLEG_REDIS_PASSWORD"):
        Settings.load()


@pytest.mark.parametrize("name", [*Settings.model_fields, *ClientSettings.model_fields])
def test_every_setting_is_documented(name: str) -> None:
    """The README or a page under docs/ names the variable."""
    readme = (ROOT / "README.md").read_text()
    if "TLEG_" not in readme:
        pytest.skip("the README has no table of settings yet")
    pages = [readme, *(page.read_text() for page in (ROOT / "docs").rglob("*.md"))]
    assert any(f"TLEG_{name.upper()}" in page for page in pages)


@pytest.mark.parametrize("settings", [Settings, ClientSettings])
def test_every_setting_has_a_description(settings: type[Settings]) -> None:
    """In the code, too."""
    assert all(field.description for field in settings.model_fields.values())
