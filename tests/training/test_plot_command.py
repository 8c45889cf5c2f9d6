"""`tleg plot`: which files it draws, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from service.cli import plot
from tests.training.test_journal import epoch_report
from tleg_core.errors import ConfigError
from tleg_core.training.journal import JOURNAL_NAME, Journal

app = typer.Typer()
app.command()(plot.plot)


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two runs of one epoch and of two."""
    folders = [tmp_path / f"{name}.run" for name in ("first", "second")]
    for count, folder in enumerate(folders, start=1):
        journal = Journal(folder / JOURNAL_NAME, plots=False)
        for epoch in range(1, count + 1):
            journal.epoch_done(epoch_report(epoch, 0.2 * epoch))
    return folders


def drawn(folder: Path) -> set[str]:
    """Return the names of the figures in a folder."""
    return {path.name for path in folder.iterdir() if path.suffix in (".png", ".svg")}


def test_one_run_is_drawn_beside_its_journal(runs: list[Path]) -> None:
    """As PNG and SVG, and the command says where."""
    result = CliRunner().invoke(app, [str(runs[0])])
    assert result.exit_code == 0, result.output
    assert drawn(runs[0]) == {"curves.png", "curves.svg"}
    assert all(result.stderr.count(f"curves.{kind}: drawn\n") == 1 for kind in ("png", "svg"))


def test_several_runs_are_drawn_into_one_file(runs: list[Path], tmp_path: Path) -> None:
    """By the suffix as one format, without one as both; each run is named."""
    words = [str(run) for run in runs]
    assert CliRunner().invoke(app, [*words, "--out", str(tmp_path / "new" / "both.svg")]).exit_code == 0
    assert CliRunner().invoke(app, [*words, "--out", str(tmp_path / "both")]).exit_code == 0
    assert drawn(tmp_path / "new") == {"both.svg"}
    assert drawn(tmp_path) == {"both.png", "both.svg"}
    text = (tmp_path / "both.svg").read_text()
    assert all(f">{name}</text>" in text for name in ("first", "second"))
    assert text == (tmp_path / "new" / "both.svg").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("first.run", "second.run"), "out: is needed to draw several runs"),
        (("first.run", "--out", "curves.pdf"), r"out: must end in .png or .svg"),
        (("third.run",), "run: there is no journal of a run at third.run"),
    ],
)
def test_what_cannot_be_drawn_is_one_clear_error(
    runs: list[Path], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    """Nothing is written."""
    monkeypatch.chdir(runs[0].parent)
    result = CliRunner().invoke(app, list(words))
    assert isinstance(result.exception, ConfigError)
    assert message in str(result.exception)
    assert drawn(runs[0]) == set()
