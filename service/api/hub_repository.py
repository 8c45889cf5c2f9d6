"""A descendant as a repository of the Hugging Face Hub: its files, commit and listing, without HTTP.

A repository has one revision, `main`, whose commit is a digest of its files. The weights are listed as a large file
(LFS) by their sha256; the others by their git blob's sha1.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from service.api.model_card import model_card
from service.api.timm_config import timm_config
from service.domain.catalogue import Catalogue
from service.domain.errors import LearngeneNotFoundError, ModelNotFoundError
from service.domain.model import Model, is_model_id
from service.storage.weights import Weights
from tleg_core.canonical import sha256_hex
from tleg_core.descendant import Descendant
from tleg_core.errors import BudgetInfeasibleError
from tleg_core.recipe import Member

NAMESPACE = "tleg"
WEIGHTS_FILE = "model.safetensors"

_READABLE_NAME = re.compile(r"(?P<learngene>[a-z0-9-]{2,63})-d(?P<depth>[1-9][0-9]{0,3})")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubRepository:
    """One descendant's repository."""

    name: str
    model: Model
    descendant: Descendant
    plain_files: dict[str, bytes]

    @classmethod
    def of(cls, name: str, model: Model, descendant: Descendant) -> HubRepository:
        """Build the repository of a model under a name."""
        config = json.dumps(timm_config(descendant), indent=2).encode() + b"\n"
        card = model_card(f"{NAMESPACE}/{name}", model, descendant).encode()
        return cls(name=name, model=model, descendant=descendant, plain_files={"README.md": card, "config.json": config})

    @property
    def repo_id(self) -> str:
        """The name as a client writes it."""
        return f"{NAMESPACE}/{self.name}"

    @property
    def commit(self) -> str:
        """40 hex digits that change with any file."""
        return sha256_hex(self.model.recipe.digest.encode(), *self.plain_files.values())[:40]

    def has_revision(self, revision: str) -> bool:
        """Whether the revision is this repository's only one."""
        return revision in ("main", self.commit)

    @property
    def file_names(self) -> list[str]:
        """Every file's name."""
        return sorted([*self.plain_files, WEIGHTS_FILE])

    def info(self) -> dict[str, Any]:
        """Return what the Hub says of a repository."""
        return {
            "_id": self.model.recipe.digest[:24],
            "id": self.repo_id,
            "modelId": self.repo_id,
            "author": NAMESPACE,
            "sha": self.commit,
            "private": False,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "library_name": "timm",
            "pipeline_tag": "image-classification",
            "tags": ["timm", "safetensors", "image-classification", "learngene"],
            "siblings": [{"rfilename": name} for name in self.file_names],
        }

    def tree(self, weights_sha256: str) -> list[dict[str, Any]]:
        """Return the listing of files; `weights_sha256` is the digest of the weights' file."""
        pointer = (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{weights_sha256}\nsize {self.descendant.size}\n"
        ).encode()
        entries: list[dict[str, Any]] = [
            {"type": "file", "path": name, "size": len(content), "oid": git_blob_sha1(content)}
            for name, content in self.plain_files.items()
        ]
        entries.append(
            {
                "type": "file",
                "path": WEIGHTS_FILE,
                "size": self.descendant.size,
                "oid": git_blob_sha1(pointer),
                "lfs": {"oid": weights_sha256, "size": self.descendant.size, "pointerSize": len(pointer)},
            }
        )
        return entries


async def find_model(name: str, catalogue: Catalogue, weights: Weights) -> Model:
    """Return the model that a repository's name means: a model's id, or `<learngene>-d<depth>`.

    Raises:
        ModelNotFoundError: It means none.
    """
    if is_model_id(name):
        return await weights.find(name)
    readable = _READABLE_NAME.fullmatch(name)
    if readable is None:
        raise ModelNotFoundError(name)
    try:
        member = Member(depth=int(readable["depth"]))
        return catalogue.default_member(readable["learngene"], member).model
    except (LearngeneNotFoundError, BudgetInfeasibleError):
        raise ModelNotFoundError(name) from None


def git_blob_sha1(content: bytes) -> str:
    """Return the name that git gives to a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
