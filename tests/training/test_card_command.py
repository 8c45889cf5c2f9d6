"""`tleg card`: the card on the output or in a file, and its instructions, followed to the letter."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from service.cli import card, local
from tleg_core.errors import TlegError
from tleg_core.images import load_image_set
from tleg_core.learngene import Learngene

NAME = "tleg-ti-fashion-mnist"
PACKAGE = Path(card.__file__).parents[2] / "tleg_core"

app = typer.Typer()
app.command("card")(card.card)
app.command("expand")(local.expand)


def test_the_card_is_printed_or_written(tmp_path: Path) -> None:
    """The same text; a name of nothing is one clear error."""
    printed = CliRunner().invoke(app, ["card", NAME])
    written = CliRunner().invoke(
        app, ["card", str(PACKAGE / "shipped" / f"{NAME}.safetensors"), "--out", str(tmp_path / "README.md")]
    )
    assert (printed.exit_code, written.exit_code) == (0, 0)
    assert (tmp_path / "README.md").read_text() == printed.stdout
    assert isinstance(CliRunner().invoke(app, ["card", "nothing"]).exception, TlegError)


def test_following_the_card_gives_the_model_that_its_table_speaks_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its command and its lines of Python, as they stand; on a thousand test images, prepared as it says, within 4 points."""
    gene = Learngene.open(PACKAGE / "shipped" / f"{NAME}.safetensors")
    gene.write(tmp_path / f"{NAME}.safetensors")
    monkeypatch.chdir(tmp_path)
    text = CliRunner().invoke(app, ["card", NAME]).stdout
    command, python = (re.search(rf"```{kind}\n(.*?)\n```", text, re.DOTALL) for kind in ("sh", "python"))
    assert command is not None
    assert python is not None
    program, *arguments = shlex.split(command[1])
    assert program == "tleg"
    assert CliRunner().invoke(app, arguments).exit_code == 0
    names: dict[str, Any] = {}
    exec(python[1], names)  # noqa: S102 (what a reader of the card runs)
    images = load_image_set(PACKAGE / "data" / "fashion-mnist-test-1000.parquet")
    inputs = (torch.from_numpy(images.images).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    with torch.inference_mode():
        predicted = names["model"].eval()(inputs).argmax(dim=1).numpy()
    depth = int(arguments[arguments.index("--depth") + 1])
    stated = re.search(rf"^\| {depth} \|.*\| ([0-9.]+)% \(", text, re.MULTILINE)
    assert stated is not None
    assert (predicted == images.labels).mean() == pytest.approx(float(stated[1]) / 100, abs=0.04)  # over three standard errors
