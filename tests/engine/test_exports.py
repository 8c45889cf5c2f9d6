"""Exports in a real engine: the files compute what timm computes, in processes that know neither timm nor this package."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from service.domain.export import ExportFormat
from service.domain.model import Model
from service.storage.object_store import learngene_key, weights_key
from service.worker.protocol import ExportRun, Failed, Finished, Started, Stepped, Stopped
from tests.core.conftest import build_pool
from tests.engine.conftest import CLASSES, Scene
from tests.engine.driver import Engine
from tests.engine.test_engine import tuned_model
from tleg_core.canonical import sha256_hex
from tleg_core.descendant import Descendant
from tleg_core.dtype import DType
from tleg_core.family import Family, Variation
from tleg_core.learngene import Learngene
from tleg_core.path import Path as PoolPath
from tleg_core.recipe import Member
from tleg_core.training import stitched_vit as _registers_with_timm  # noqa: F401

pytestmark = pytest.mark.slow  # an engine of its own

_JOBS = itertools.count(1)
BATCH_SIZE = 5  # another one than exports are traced and verified with
ATOL = 1e-5  # float32 sums in another order, of logits of about 1

PROGRAMS = {
    ExportFormat.ONNX: """
import sys, numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
(logits,) = session.run(None, {session.get_inputs()[0].name: np.load(sys.argv[2])})
assert not {"torch", "timm", "tleg_core", "service"} & sys.modules.keys()
np.save(sys.argv[3], logits)
""",
    ExportFormat.TORCH_EXPORT: """
import sys, numpy as np, torch
logits = torch.export.load(sys.argv[1]).module()(torch.from_numpy(np.load(sys.argv[2])))
assert not {"timm", "tleg_core", "service"} & sys.modules.keys()
np.save(sys.argv[3], logits.detach().numpy())
""",
}


def order(model: Model, file_format: ExportFormat, *, learngene_key: str | None = None) -> ExportRun:
    """Return the order of a new export."""
    return ExportRun(
        job=f"ex-{next(_JOBS):032x}",
        attempt=1,
        learngene_key=learngene_key,
        model=model.to_json(),
        class_names=list(CLASSES),
        licence="MIT",
        format=file_format,
    )


def exported(engine: Engine, scene: Scene, run: ExportRun) -> Path:
    """Do an export and return its file."""
    started, *steps, finished = engine.do(run)
    assert isinstance(started, Started)
    assert [step.step for step in steps if isinstance(step, Stepped)] == [1, 2]
    assert isinstance(finished, Finished), finished
    assert finished.metrics["deviation"] < 1e-4
    path = scene.store.local_path(finished.weights.key)
    assert path is not None
    assert path.suffix == run.format.suffix
    assert finished.weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert finished.weights.size_bytes == path.stat().st_size
    return path


def logits_elsewhere(path: Path, file_format: ExportFormat, images: np.ndarray, folder: Path) -> np.ndarray:
    """Return what a fresh process computes with a file, in a folder of its own."""
    np.save(folder / "images.npy", images)
    arguments = [str(path), str(folder / "images.npy"), str(folder / "logits.npy")]
    subprocess.run([sys.executable, "-c", PROGRAMS[file_format], *arguments], cwd=folder, check=True, timeout=120)
    logits: np.ndarray = np.load(folder / "logits.npy")
    return logits


def logits_of_weights(model: Model, weights: Path, images: np.ndarray) -> np.ndarray:
    """Return what timm computes with the safetensors file."""
    network = timm.create_model(model.architecture, num_classes=model.recipe.num_classes, **model.model_args).eval()
    network.load_state_dict({name: tensor.float() for name, tensor in load_file(weights).items()}, strict=True)
    with torch.inference_mode():
        logits: np.ndarray = network(torch.from_numpy(images)).numpy()
    return logits


def images_for(model: Model) -> np.ndarray:
    """Return random normalised images, (B, C, H, W)."""
    config = model.config
    shape = (BATCH_SIZE, config.in_chans, config.img_size, config.img_size)
    return np.random.default_rng(7).standard_normal(shape, dtype=np.float32)


def member_of(learngene: Learngene, member: Member, dtype: DType = DType.FLOAT32) -> tuple[Model, bytes]:
    """Return a model that is no fine-tune, and its file."""
    family = Family(learngene)
    recipe = family.recipe(member, Variation(dtype=dtype))
    descendant = Descendant(family, recipe)
    return Model.of(family, recipe), b"".join(bytes(block) for block in descendant.blocks(0, descendant.size))


SLOW = pytest.mark.slow  # another process that loads torch
EACH_FORMAT = pytest.mark.parametrize(
    "file_format", [ExportFormat.ONNX, pytest.param(ExportFormat.TORCH_EXPORT, marks=SLOW)], ids=str
)


@EACH_FORMAT
@pytest.mark.parametrize("dtype", [pytest.param(DType.FLOAT32, marks=SLOW), DType.FLOAT16], ids=str)
def test_a_descendant_computes_the_same_in_a_process_without_our_code(
    *, engine: Engine, scene: Scene, tmp_path: Path, file_format: ExportFormat, dtype: DType
) -> None:
    """Of any number of images; in float32, with the weights as the file's dtype rounded them."""
    model, content = member_of(scene.learngene, Member(depth=3), dtype)
    (tmp_path / "weights").write_bytes(content)
    path = exported(engine, scene, order(model, file_format))
    images = images_for(model)
    expected = logits_of_weights(model, tmp_path / "weights", images)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(logits_elsewhere(path, file_format, images, tmp_path), expected, rtol=0, atol=ATOL)


@EACH_FORMAT
def test_a_stitched_descendant_needs_none_of_our_code(
    engine: Engine, scene: Scene, tmp_path: Path, file_format: ExportFormat
) -> None:
    """A path through two widths, of a pool that was published after the engine's start."""
    pool = build_pool()
    pool.write(tmp_path / "pool")
    key = learngene_key(sha256_hex(pool.content), "publication")
    scene.store.put_file(key, tmp_path / "pool")
    model, content = member_of(pool, Member.along(PoolPath.parse("0.0-1_1.2-3")))
    (tmp_path / "weights").write_bytes(content)
    assert not model.stack.is_plain
    path = exported(engine, scene, order(model, file_format, learngene_key=key))
    images = images_for(model)
    expected = logits_of_weights(model, tmp_path / "weights", images)
    np.testing.assert_allclose(logits_elsewhere(path, file_format, images, tmp_path), expected, rtol=0, atol=ATOL)


def test_a_fine_tuned_model_is_exported_with_its_own_weights(engine: Engine, scene: Scene, tmp_path: Path) -> None:
    """As they lie in the object store."""
    run = scene.run(epochs=1)
    weights = engine.do(run)[-1].weights
    model = tuned_model(scene, run, weights.key, weights.sha256)
    path = exported(engine, scene, order(model, ExportFormat.ONNX))
    images = images_for(model)
    stored = scene.store.local_path(weights.key)
    assert stored is not None
    expected = logits_of_weights(model, stored, images)
    np.testing.assert_allclose(
        logits_elsewhere(path, ExportFormat.ONNX, images, tmp_path), expected, rtol=0, atol=ATOL * np.abs(expected).max()
    )


def test_the_same_export_gives_the_same_file_that_names_nothing_of_this_machine(
    engine: Engine, scene: Scene, tmp_path: Path
) -> None:
    """Whichever job makes it; no path, and what it needs to be used: classes, preprocessing and licence."""
    first, second = (exported(engine, scene, order(scene.model, ExportFormat.ONNX)) for _ in range(2))
    assert first == second
    content = first.read_bytes()
    for secret in (str(Path.cwd()), str(tmp_path.parent), sys.prefix):
        assert secret.encode() not in content
    for text in (scene.model.id, scene.model.recipe.digest, "MIT", *CLASSES):
        assert text.encode() in content


def test_a_model_whose_logits_are_no_numbers_fails_by_its_own_code(engine: Engine, scene: Scene, tmp_path: Path) -> None:
    """No file that was not verified is stored, and the engine goes on."""
    run = scene.run(epochs=1)
    weights = engine.do(run)[-1].weights
    stored = scene.store.local_path(weights.key)
    assert stored is not None
    tensors = load_file(stored)
    tensors["head.bias"][0] = float("nan")
    save_file(tensors, tmp_path / "broken", metadata={"format": "pt"})
    sha256 = hashlib.sha256((tmp_path / "broken").read_bytes()).hexdigest()
    scene.store.put_file(weights_key(sha256), tmp_path / "broken")
    model = tuned_model(scene, run, weights_key(sha256), sha256)
    failed = engine.do(order(model, ExportFormat.ONNX))[-1]
    assert isinstance(failed, Failed)
    assert failed.code == "export_refused"
    assert "not finite" in failed.message
    exported(engine, scene, order(scene.model, ExportFormat.ONNX))


def test_an_export_stops_when_it_is_told_to(engine: Engine, scene: Scene) -> None:
    """Between two steps; another attempt begins again."""
    run = order(scene.model, ExportFormat.ONNX)
    engine.order(run)
    engine.stop(run.job, save=True)
    assert isinstance(engine.until(Stopped)[-1], Stopped)
    exported(engine, scene, run.model_copy(update={"attempt": 2}))


@SLOW
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_an_engine_loads_the_exporters_for_its_first_export(start: Callable[[], Engine], scene: Scene) -> None:
    """Not when it starts, which jobs wait for."""
    with start() as fresh:
        maps = Path(f"/proc/{fresh.process.pid}/maps")
        assert "onnx" not in maps.read_text()
        exported(fresh, scene, order(scene.model, ExportFormat.ONNX))
        assert "onnxruntime" in maps.read_text()
