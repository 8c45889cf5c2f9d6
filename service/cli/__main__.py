"""`python -m service.cli` is `tleg`."""

from service.cli.main import run

run()
