"""The models' files: computed by recipe, with their sha256 computed once and kept, or read from the object store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import lru_cache

from service.domain.catalogue import Catalogue
from service.domain.errors import LearngeneNotLoadedError, WeightsMissingError
from service.domain.model import FineTuning, Model
from service.storage.model_store import ModelStore
from service.storage.object_store import ObjectStore
from tleg_core.canonical import sha256_hex
from tleg_core.descendant import Descendant
from tleg_core.family import Family
from tleg_core.recipe import Recipe

_FOUND_MODELS = 4096  # records kept, a kilobyte or two each
_FOUND_CLASS_NAMES = 1000  # of a record that is kept; one with more is read again each time
_OPEN_FILES = 256  # plans kept; each is a header and a list of sources, no weights
_HASHING_AT_ONCE = 2  # passes over whole files


class Weights:
    """The files of a catalogue's models."""

    def __init__(self, catalogue: Catalogue, store: ModelStore, objects: ObjectStore) -> None:
        self._catalogue = catalogue
        self._store = store
        self._objects = objects
        self._open = lru_cache(maxsize=_OPEN_FILES)(self._open_recipe)
        self._found: dict[str, Model] = {}
        self._learngene_etags: dict[str, str] = {}
        self._running: dict[str, asyncio.Task[str]] = {}
        self._slots = asyncio.Semaphore(_HASHING_AT_ONCE)

    async def find(self, model_id: str) -> Model:
        """Return a created model; one that was found before is not looked up again, for a model never changes.

        Raises:
            ModelNotFoundError: There is none.
            StoreUnavailableError: It was not found before, and Redis does not answer.
        """
        model = self._found.get(model_id)
        if model is None:
            model = self._catalogue.current((await self._store.get(model_id)).model)
            if model.fine_tuning is not None and len(model.fine_tuning.class_names) > _FOUND_CLASS_NAMES:
                return model
            if len(self._found) >= _FOUND_MODELS:
                del self._found[next(iter(self._found))]
            self._found[model_id] = model
        return model

    def open(self, model: Model) -> Descendant:
        """Return an expanded model's file; raises `LearngeneNotLoadedError`."""
        descendant = self._open(model.recipe)
        if descendant is None:
            raise LearngeneNotLoadedError(model.learngene, model.recipe.learngene)
        return descendant

    async def open_prepared(self, model: Model) -> Descendant:
        """Return an expanded model's file, ready to be sent without delay; raises `LearngeneNotLoadedError`."""
        descendant = self.open(model)
        if model.recipe.img_size != descendant.family.learngene.description.config.img_size:
            await asyncio.to_thread(descendant.prepare)
        return descendant

    async def check_stored(self, model_id: str, tuning: FineTuning) -> None:
        """Return if a fine-tuned model's file is in the object store, whole.

        Raises:
            WeightsMissingError: It is not.
            ObjectStoreError: The object store does not answer.
        """
        try:
            size_bytes = await self._objects.size_async(tuning.weights_key)
        except FileNotFoundError:
            raise WeightsMissingError(model_id) from None
        if size_bytes != tuning.size_bytes:
            raise WeightsMissingError(model_id)

    async def stored_chunks(self, model_id: str, tuning: FineTuning, start: int, stop: int) -> AsyncGenerator[memoryview]:
        """Yield the bytes `start`..`stop` of a fine-tuned model's file, about a megabyte at a time.

        Raises:
            WeightsMissingError: It is not in the object store.
            ObjectStoreError: The object store does not answer.
        """
        try:
            async with aclosing(self._objects.chunks(tuning.weights_key, start, stop)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except FileNotFoundError:
            raise WeightsMissingError(model_id) from None

    def _open_recipe(self, recipe: Recipe) -> Descendant | None:
        family = self._catalogue.family_by_digest(recipe.learngene)
        return None if family is None else Descendant(family, recipe)

    def learngene_etag(self, family: Family) -> str:
        """Return the sha256 of a learngene's own file, computed once."""
        if family.name not in self._learngene_etags:
            self._learngene_etags[family.name] = sha256_hex(family.learngene.content)
        return self._learngene_etags[family.name]

    async def sha256(self, model: Model) -> str:
        """Return the sha256 of a model's file, computing it unless it was kept; askers at the same time share one pass.

        Raises:
            LearngeneNotLoadedError: It was not kept, and the learngene is not here.
            StoreUnavailableError: Redis does not answer.
        """
        if model.fine_tuning is not None:
            return model.fine_tuning.weights_sha256
        kept = await self._store.sha256(model.id)
        if kept is not None:
            return kept
        task = self._running.get(model.id)
        if task is None:
            task = asyncio.create_task(self._compute(model, self.open(model)))
            self._running[model.id] = task
            task.add_done_callback(lambda _: self._running.pop(model.id, None))
        return await asyncio.shield(task)

    async def _compute(self, model: Model, descendant: Descendant) -> str:
        async with self._slots:
            sha256 = await asyncio.to_thread(descendant.sha256)
        await self._store.keep_sha256(model.id, sha256)
        return sha256
