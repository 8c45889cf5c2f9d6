"""The API process never loads torch, whatever it is asked."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.service import tiny
from tests.service.server import ServerProcess


def test_importing_the_application_leaves_torch_out() -> None:
    """Neither torch nor anything that loads it is among the modules, with every route and the command that serves."""
    left_out = {"torch", "torchvision", "timm", "onnx", "onnxscript", "onnxruntime"}
    code = f"import sys, service.api.app, service.cli.serve; print({left_out} & sys.modules.keys())"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"


def two_classes() -> bytes:
    """Return a zip with ten images of each of two classes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for index in range(20):
            image = io.BytesIO()
            Image.new("RGB", (32, 32), (index, 0, 0)).save(image, "PNG")
            archive.writestr(f"{'dark' if index < 10 else 'red'}/{index}.png", image.getvalue())
    return content.getvalue()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_a_server_that_was_asked_everything_has_no_torch_mapped(server: ServerProcess, http: httpx.Client) -> None:
    """After a request to each route of the document no library of torch is in the process."""
    model = http.post("/models", json={"learngene": "tiny-tleg", "budget": {"depth": 3}}).json()
    http.post("/models/batch", json={"requests": [{"image_size": 64, "num_classes": 3, "head": "random"}]})
    dataset = http.post("/datasets", files={"file": ("images.zip", two_classes())}).json()["id"]
    job = http.post("/fine-tunes", json={"model": model["id"], "dataset": dataset}).json()["id"]
    training = http.post("/learngenes/trainings", json={"name": "trained", "dataset": dataset}).json()["id"]
    export = http.post(f"/models/{model['id']}/exports", json={"format": "onnx"}).json()["id"]
    published = tiny.learngene("torch-free")
    assert http.post("/learngenes", content=bytes(published.content)).status_code == 201
    values = {
        "{model_id}": model["id"],
        "{dataset_id}": dataset,
        "{learngene_id}": published.name,
        "{namespace}": "tleg",
        "{name}": "tiny-tleg-d3",
        "{revision}": "main",
        "{file}": "model.safetensors",
    }
    for path, methods in http.get("/openapi.json").json()["paths"].items():
        jobs = {"/learngenes/trainings/": training, "/exports/": export}
        values["{job_id}"] = next((known for prefix, known in jobs.items() if path.startswith(prefix)), job)
        address = re.sub(r"\{\w+\}", lambda found: values[found[0]], path)
        if "get" in methods:
            assert http.get(address).status_code == 200, path
    for page in ("/", "/docs"):
        assert http.get(page).status_code == 200
    assert http.post(f"/fine-tunes/{job}/cancel").json()["status"] == "cancelled"
    assert http.post(f"/learngenes/trainings/{training}/cancel").json()["status"] == "cancelled"
    assert http.delete(f"/learngenes/{published.name}").status_code == 204
    assert http.delete(f"/datasets/{dataset}").status_code == 204
    maps = Path(f"/proc/{server.pid}/maps").read_text()
    assert "/python" in maps
    assert not [line for line in maps.splitlines() if "torch" in line or "onnx" in line]
