"""A model as a repository of the Hugging Face Hub: its files, commit and listing, without HTTP.

A repository has one revision, `main`, whose commit is a digest of its files. The weights are listed as a large file
(LFS) by their sha256; the others by their git blob's sha1.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.api.fine_tuned_card import fine_tuned_card
from service.api.learning_curve import CurvePoint
from service.api.model_card import model_card
from service.api.timm_config import timm_config
from service.domain.catalogue import Catalogue
from service.domain.errors import LearngeneNotFoundError, LearngeneNotLoadedError, ModelNotFoundError
from service.domain.model import Model, is_model_id
from service.storage.learngene_registry import LearngeneRegistry
from service.storage.weights import Weights
from tleg_core.canonical import sha256_hex
from tleg_core.errors import ConfigError
from tleg_core.path import Path
from tleg_core.recipe import Member

NAMESPACE = "tleg"
WEIGHTS_FILE = "model.safetensors"

_READABLE_NAME = re.compile(r"(?P<learngene>[a-z0-9-]{2,63})-(?:d(?P<depth>[1-9][0-9]{0,3})|p(?P<path>[0-9._-]+))")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubRepository:
    """One model's repository."""

    name: str
    model: Model
    plain_files: dict[str, bytes]

    @classmethod
    def of(cls, name: str, model: Model, catalogue: Catalogue, curve: Sequence[CurvePoint] = ()) -> HubRepository:
        """Build the repository of a model under a name; `curve` is its learning curve if it was fine-tuned.

        Raises:
            LearngeneNotLoadedError: It is expanded from a learngene that is not here.
        """
        repo_id = f"{NAMESPACE}/{name}"
        config = json.dumps(timm_config(model, catalogue.usage(model)), indent=2).encode() + b"\n"
        if model.fine_tuning is not None:
            card = fine_tuned_card(repo_id, model, model.fine_tuning, curve)
        else:
            family = catalogue.family_by_digest(model.recipe.learngene)
            if family is None:
                raise LearngeneNotLoadedError(model.learngene, model.recipe.learngene)
            card = model_card(repo_id, model, family.learngene.description)
        return cls(name=name, model=model, plain_files={"README.md": card.encode(), "config.json": config})

    @property
    def repo_id(self) -> str:
        """The name as a client writes it."""
        return f"{NAMESPACE}/{self.name}"

    @property
    def commit(self) -> str:
        """40 hex digits that change with any file."""
        return sha256_hex(self.model.content_digest.encode(), *self.plain_files.values())[:40]

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
            "_id": self.model.content_digest[:24],
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
            "tags": ["timm", "safetensors", "image-classification", "learngene", *self._more_tags],
            "siblings": [{"rfilename": name} for name in self.file_names],
        }

    @property
    def _more_tags(self) -> list[str]:
        tuning = self.model.fine_tuning
        return [] if tuning is None else ["fine-tuned", f"base_model:{NAMESPACE}/{tuning.parent}"]

    def tree(self, weights_sha256: str) -> list[dict[str, Any]]:
        """Return the listing of files; `weights_sha256` is the digest of the weights' file."""
        size = self.model.size_bytes
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{weights_sha256}\nsize {size}\n".encode()
        entries: list[dict[str, Any]] = [
            {"type": "file", "path": name, "size": len(content), "oid": git_blob_sha1(content)}
            for name, content in self.plain_files.items()
        ]
        entries.append(
            {
                "type": "file",
                "path": WEIGHTS_FILE,
                "size": size,
                "oid": git_blob_sha1(pointer),
                "lfs": {"oid": weights_sha256, "size": size, "pointerSize": len(pointer)},
            }
        )
        return entries


async def find_model(name: str, learngenes: LearngeneRegistry, weights: Weights) -> Model:
    """Return the model that a repository's name means: a model's id, `<learngene>-d<depth>` or `<learngene>-p<path>`.

    Raises:
        ModelNotFoundError: It means none.
    """
    if is_model_id(name):
        return await weights.find(name)
    readable = _READABLE_NAME.fullmatch(name)
    if readable is None:
        raise ModelNotFoundError(name)
    try:
        path = readable["path"]
        member = Member(depth=int(readable["depth"])) if path is None else Member.along(Path.parse(path))
        await learngenes.look_for(readable["learngene"])
        return learngenes.catalogue.default_model(readable["learngene"], member)
    except (LearngeneNotFoundError, ConfigError):
        raise ModelNotFoundError(name) from None


def git_blob_sha1(content: bytes) -> str:
    """Return the name that git gives to a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
