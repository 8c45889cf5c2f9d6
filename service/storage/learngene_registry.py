"""Where a server's learngenes come from: the files shipped with the package, and files named by the operator."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import tleg_core
from service.domain.catalogue import Catalogue
from tleg_core.family import Family
from tleg_core.learngene import Learngene


def shipped_paths() -> list[Path]:
    """Return the learngene files that are part of the package, by name."""
    return sorted((Path(tleg_core.__file__).parent / "shipped").glob("*.safetensors"))


def load_catalogue(paths: Iterable[Path], *, shipped: bool = True) -> Catalogue:
    """Open every learngene and return the catalogue of their families; a file named twice is opened once.

    Raises:
        LearngeneFileError: A file cannot be used.
        ConfigError: Two learngenes share a name or a digest.
    """
    named = [path.expanduser() for path in paths]
    files = {path.resolve(): path for path in [*(shipped_paths() if shipped else []), *named]}
    return Catalogue(Family(Learngene.open(path)) for path in files.values())
