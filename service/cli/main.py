"""The command `tleg`: every subcommand, and errors as one line and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Annotated, NoReturn

import typer

from service.cli import (
    ancestry,
    card,
    compare,
    datasets,
    demo,
    evaluate,
    exports,
    fine_tunes,
    learngenes,
    local,
    models,
    plot,
    recipes,
    scratch,
    serve,
    train,
    training,
    trainings,
    worker,
)
from service.cli.console import err, printable
from tleg_core import __version__
from tleg_core.errors import TlegError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Initialised vision Transformers of any depth, expanded from a trained learngene.",
    epilog="Start with `tleg serve`, or without a server with `tleg budget --max-params 3M`.",
)

_TRAINS_WITH = ("torch", "torchvision", "timm", "matplotlib")  # an installation that only serves may go without
_SERVER, _FILES, _TRAINING = "Service", "Learngene files", "Training"


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tleg {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    _show: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Hold the options of `tleg` itself."""


app.command(rich_help_panel=_SERVER)(serve.serve)
app.command(rich_help_panel=_SERVER)(worker.worker)
app.command(rich_help_panel=_SERVER)(demo.demo)
app.command(rich_help_panel=_SERVER)(learngenes.publish)
app.add_typer(learngenes.app, name="learngenes", rich_help_panel=_SERVER)
app.add_typer(models.app, name="models", rich_help_panel=_SERVER)
app.add_typer(exports.app, name="exports", rich_help_panel=_SERVER)
app.add_typer(datasets.app, name="datasets", rich_help_panel=_SERVER)
app.add_typer(fine_tunes.app, name="fine-tunes", rich_help_panel=_SERVER)
app.add_typer(trainings.app, name="trainings", rich_help_panel=_SERVER)
app.command(rich_help_panel=_FILES)(local.budget)
app.command(rich_help_panel=_FILES)(local.expand)
app.command(rich_help_panel=_FILES)(local.inspect)
app.command(rich_help_panel=_FILES)(card.card)
app.command(rich_help_panel=_FILES)(scratch.scratch)
app.command("import", rich_help_panel=_FILES)(training.import_checkpoint)
app.command(rich_help_panel=_TRAINING)(train.train)
app.add_typer(recipes.app, name="recipes", rich_help_panel=_TRAINING)
app.command(rich_help_panel=_TRAINING)(evaluate.evaluate)
app.command(rich_help_panel=_TRAINING)(compare.compare)
app.command(rich_help_panel=_TRAINING)(plot.plot)
app.add_typer(ancestry.app, name="ancestry", rich_help_panel=_TRAINING)


def _unwind(number: int, _: FrameType | None) -> NoReturn:
    """End the process by way of its context managers, with the exit code that shells give to a signal."""
    raise SystemExit(128 + number)


def _fail(reason: str) -> NoReturn:
    """End the process with one line of error; the reason may be a server's or a file's word."""
    err.print("error: ", style="red", end="")
    err.print(printable(reason), soft_wrap=True)
    sys.exit(1)


def run() -> None:
    """Run the command line; the entry point of the `tleg` program."""
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, _unwind)  # so that whatever a command started is stopped in order
    try:
        app(prog_name="tleg")
    except TlegError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        module = str(error.name).partition(".")[0]
        if module not in _TRAINS_WITH:
            raise
        _fail(
            f"this needs {module}, which is not installed here; what trains, measures or draws needs {', '.join(_TRAINS_WITH)}"
        )
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone; say nothing
        sys.exit(1)
    except OSError as error:
        _fail(f"{error.filename2 or error.filename or 'the system'}: {error.strerror or error}")
    except KeyboardInterrupt:
        sys.exit(130)  # as shells count an interrupted program
