"""docker-compose.yml: against its published schema, the settings, the command line, the images, and a real Redis."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from service.settings import Settings
from tests.docker import compose_file
from tests.docker.compose_file import COMPOSE_FILE, ENV_EXAMPLE, ROOT, VariableMissingError
from tests.docker.dockerfile import Dockerfile

ENV = {"TLEG_REDIS_PASSWORD": "0123abcd"}
SERVICES: dict[str, dict[str, Any]] = compose_file.resolve(compose_file.load(), ENV)
OURS = [name for name, service in SERVICES.items() if "build" in service]
WORKERS = [name for name in OURS if name.startswith("worker")]


def _settings(service: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch, env: Mapping[str, str] = ENV) -> Settings:
    """Return the settings that a service's container has: the image's variables, and the compose file's over them."""
    image = Dockerfile(ROOT / service["build"]["dockerfile"]).env()
    for name in [name for name in os.environ if name.startswith("TLEG_")]:
        monkeypatch.delenv(name)
    for name, value in (image | compose_file.environment(service, env)).items():
        if name.startswith("TLEG_"):
            monkeypatch.setenv(name, value)
    return Settings.load()


def _schema_refuses(file: Path) -> str:
    """Return what the published schema has against a file; nothing if it is in order."""
    command = [Path(sys.executable).parent / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", file]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if answer.returncode == 0 else answer.stdout + answer.stderr


def _has_compose() -> bool:
    """Whether Docker's program is here, with Compose."""
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0


def test_it_follows_the_published_schema() -> None:
    """The Compose Specification's own."""
    assert not _schema_refuses(COMPOSE_FILE)


def test_the_schema_would_find_a_misspelt_key(tmp_path: Path) -> None:
    """So that the test above says something."""
    file = tmp_path / "docker-compose.yml"
    file.write_text(COMPOSE_FILE.read_text().replace("depends_on:", "depend_on:"))
    assert "depend_on" in _schema_refuses(file)


@pytest.mark.skipif(not _has_compose(), reason="needs Docker Compose")
@pytest.mark.parametrize("profile", ["gpu", "cpu", "gpu,exports"])
def test_compose_itself_reads_it(profile: str) -> None:
    """Where there is one; it needs no engine for that. Without a password it does not."""
    command = ["docker", "compose", "--file", str(COMPOSE_FILE), "--env-file", os.devnull, "config", "--quiet"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TLEG_", "COMPOSE_"))}
    subprocess.run(command, env=clean | ENV | {"COMPOSE_PROFILES": profile}, check=True)
    refused = subprocess.run(command, env=clean | {"COMPOSE_PROFILES": profile}, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "TLEG_REDIS_PASSWORD" in refused.stderr


def test_it_refuses_to_start_without_a_password() -> None:
    """And says what to do; no password stands in it."""
    with pytest.raises(VariableMissingError, match=r"TLEG_REDIS_PASSWORD.*make-env\.sh"):
        compose_file.resolve(compose_file.load(), {})
    with pytest.raises(VariableMissingError):
        compose_file.resolve(compose_file.load(), {"TLEG_REDIS_PASSWORD": ""})
    text = COMPOSE_FILE.read_text()
    assert not re.search(r"(?im)^\s*\w*(password|secret|key|token|auth)\w*:[ \t]*[^\s$#]", text)
    assert re.findall(r"\$\{TLEG_REDIS_PASSWORD(..)", text) == [":?", ":?"]


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting_with_a_valid_value(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each TLEG_ variable of service and image is in `Settings`, which takes the values."""
    variables = {*SERVICES[name]["environment"], *Dockerfile(ROOT / SERVICES[name]["build"]["dockerfile"]).env()}
    ours = {variable for variable in variables if variable.startswith("TLEG_")}
    assert ours <= {f"TLEG_{field.upper()}" for field in Settings.model_fields}
    settings = _settings(SERVICES[name], monkeypatch)
    assert settings.redis_url == "redis://:0123abcd@redis:6379/0"
    assert settings.redis_password == SecretStr("0123abcd")
    assert settings.data_dir == Path("/data")
    assert settings.object_store_url == "file:///data/objects"


def test_the_store_may_be_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """What .env says of it reaches the API and the workers alike."""
    env = ENV | {"TLEG_STORE_URL": "s3://bucket/tleg", "AWS_REGION": "eu-1"}
    for name in OURS:
        assert _settings(SERVICES[name], monkeypatch, env).object_store_url == "s3://bucket/tleg"
        assert compose_file.environment(SERVICES[name], env)["AWS_REGION"] == "eu-1"


def test_the_example_names_every_variable_with_its_default() -> None:
    """`.env.example` and the compose file tell the same, and where a setting has a default it is that one."""
    lines = re.findall(r"(?m)^#?([A-Z_]+)=(.*)$", ENV_EXAMPLE.read_text())
    example = dict(lines)
    variables = compose_file.variables()
    assert set(example) - {"COMPOSE_PROFILES"} == set(variables) - {"AWS_SESSION_TOKEN"}
    for name, default in variables.items():
        if default is None:
            continue
        assert example[name] == default
        if name.startswith("TLEG_"):
            field = Settings.model_fields[name.removeprefix("TLEG_").lower()]
            assert type(field.default)(yaml.safe_load(default)) == field.default, name


@pytest.mark.parametrize("name", OURS)
def test_its_command_exists(name: str) -> None:
    """`tleg` knows the command and every option of it, and the image's own command is the same."""
    program, *arguments = SERVICES[name]["command"]
    assert program == "tleg"
    assert SERVICES[name]["command"] == Dockerfile(ROOT / SERVICES[name]["build"]["dockerfile"]).command()
    answer = subprocess.run(
        [sys.executable, "-m", "service.cli", *arguments, "--help"], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.parametrize("name", OURS)
def test_its_image_is_built_from_these_sources(name: str) -> None:
    """The context and the Dockerfile are here, and no registry is asked for an image of that name."""
    build = SERVICES[name]["build"]
    assert (COMPOSE_FILE.parent / build["context"] / build["dockerfile"]).is_file()
    assert SERVICES[name]["pull_policy"] == "build"


@pytest.mark.parametrize("name", SERVICES)
def test_it_can_do_no_more_than_it_must(name: str) -> None:
    """No root, no capabilities, no new privileges, nothing to write to but volumes and a bounded /tmp; back after a crash."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert "privileged" not in service
    assert all("size=" in mount for mount in service.get("tmpfs", []))
    user = service.get("user") or Dockerfile(ROOT / service["build"]["dockerfile"]).user()
    assert user.split(":")[0] not in ("", "0", "root")


def test_redis_is_reached_from_inside_alone() -> None:
    """Only the API publishes a port, on this machine's own address; Redis's network has no way out."""
    assert {name for name in SERVICES if "ports" in SERVICES[name]} == {"api"}
    assert SERVICES["api"]["ports"] == ["127.0.0.1:8000:8000"]
    assert SERVICES["redis"]["networks"] == ["inside"]
    networks = yaml.safe_load(COMPOSE_FILE.read_text())["networks"]
    assert networks["inside"]["internal"] is True
    assert all(set(service["networks"]) <= set(networks) for service in SERVICES.values())


def test_whoever_needs_redis_waits_for_it() -> None:
    """By its health check; and each of ours has one of its own."""
    for name in OURS:
        assert SERVICES[name]["depends_on"] == {"redis": {"condition": "service_healthy"}}
        assert Dockerfile(ROOT / SERVICES[name]["build"]["dockerfile"]).health_check()
    assert SERVICES["redis"]["healthcheck"]["test"]


def test_a_profile_chooses_the_worker() -> None:
    """`gpu` reserves a GPU and takes no less, `cpu` needs none; API and Redis are in every profile."""
    assert {name: SERVICES[name].get("profiles") for name in SERVICES} == {
        "api": None,
        "redis": None,
        "worker": ["gpu"],
        "worker-cpu": ["cpu"],
        "worker-exports": ["exports"],
    }
    reserved = SERVICES["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert reserved == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    assert SERVICES["worker"]["environment"]["TLEG_DEVICE"] == "cuda"
    assert "deploy" not in SERVICES["worker-cpu"]
    assert SERVICES["worker-cpu"]["environment"]["TLEG_DEVICE"] == "cpu"
    assert SERVICES["worker-exports"]["environment"]["TLEG_ONLY"] == "exports"


@pytest.mark.parametrize("name", OURS)
def test_its_volumes_are_where_the_image_has_folders_for_them(name: str) -> None:
    """The image's folders have the user's number, which a new volume takes over; all share the one of the objects."""
    mounts = dict(volume.split(":") for volume in SERVICES[name]["volumes"])
    declared = yaml.safe_load(COMPOSE_FILE.read_text())["volumes"]
    assert set(mounts) <= set(declared)
    assert mounts["data"] == "/data"
    assert set(mounts.values()) == set(Dockerfile(ROOT / SERVICES[name]["build"]["dockerfile"]).volumes())


@pytest.mark.parametrize("name", OURS)
def test_it_is_given_the_time_that_it_takes_to_drain(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose kills no earlier than half a minute after the setting's time is over."""
    grace_s = compose_file.seconds(SERVICES[name]["stop_grace_period"])
    assert grace_s >= _settings(SERVICES[name], monkeypatch).drain_timeout_s + 30
