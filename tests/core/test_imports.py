"""The torch-free part of the core, as pyproject's import contract lists it, in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def torch_free_modules() -> list[str]:
    """Return the modules that the import contract forbids to import torch."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (modules,) = [item["source_modules"] for item in contracts if item["name"].startswith("The torch-free part of the core")]
    return list(modules)


def test_the_contract_lists_every_module_of_the_core() -> None:
    """No module at tleg_core's own level is left out of the import contract, and none in it is gone."""
    found = {f"tleg_core.{file.stem}" for file in (ROOT / "tleg_core").glob("*.py") if file.stem != "__init__"}
    assert found == {name for name in torch_free_modules() if not (ROOT / name.replace(".", "/")).is_dir()}


def test_importing_the_core_leaves_torch_alone() -> None:
    """With every torch-free module imported, neither torch nor torchvision nor timm is in sys.modules."""
    program = f"""
import importlib, sys
for name in {torch_free_modules()!r}:
    importlib.import_module(name)
print(sorted(sys.modules.keys() & {{"torch", "torchvision", "timm"}}))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
