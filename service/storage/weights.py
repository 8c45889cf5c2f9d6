"""The models' files: computed by recipe, with their sha256 computed once and kept, or read from the object store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import lru_cache

from service.domain.errors import LearngeneNotLoadedError, WeightsMissingError
from service.domain.model import Model
from service.storage.learngene_registry import LearngeneRegistry
from service.storage.model_store import ModelStore
from service.storage.object_store import ObjectStore
from tleg_core.descendant import Descendant
from tleg_core.recipe import Recipe

_FOUND_MODELS = 4096  # records kept, a kilobyte or two each
_FOUND_CLASS_NAMES = 1000  # of a record that is kept; one with more is read again each time
_OPEN_FILES = 256  # plans kept; each is a header and a list of sources, no weights
_HASHING_AT_ONCE = 2  # passes over whole files


class Weights:
    """The files of the models of a process's learngenes."""

    def __init__(self, learngenes: LearngeneRegistry, store: ModelStore, objects: ObjectStore) -> None:
        self._learngenes = learngenes
        self._generation = learngenes.generation
        self._store = store
        self._objects = objects
        self._open = lru_cache(maxsize=_OPEN_FILES)(self._open_recipe)
        self._found: dict[str, Model] = {}
        self._running: dict[str, asyncio.Task[str]] = {}
        self._slots = asyncio.Semaphore(_HASHING_AT_ONCE)

    async def find(self, model_id: str) -> Model:
        """Return a created model; one that was found before is not looked up again, for a model never changes.

        Its learngene is at hand afterwards, where it is to be had.

        Raises:
            ModelNotFoundError: There is none.
            StoreUnavailableError: It was not found before, or its learngene was not, and Redis does not answer.
            ObjectStoreError: Its learngene was not found before, and the object store does not answer.
        """
        model = self._found.get(model_id)
        if model is None:
            model = (await self._store.get(model_id)).model
            if model.fine_tuning is None or len(model.fine_tuning.class_names) <= _FOUND_CLASS_NAMES:
                if len(self._found) >= _FOUND_MODELS:
                    del self._found[next(iter(self._found))]
                self._found[model_id] = model
        await self._learngenes.provide_for(model)
        return self._learngenes.catalogue.current(model)

    def open(self, model: Model) -> Descendant:
        """Return an expanded model's file; raises `LearngeneNotLoadedError`."""
        if self._generation != self._learngenes.generation:
            self._generation = self._learngenes.generation
            self._open.cache_clear()  # what was opened holds learngenes that may be let go of
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

    async def check_stored(self, model_id: str, key: str, size_bytes: int) -> None:
        """Return if a file of a model, its weights or an export, is in the object store, whole.

        Raises:
            WeightsMissingError: It is not.
            ObjectStoreError: The object store does not answer.
        """
        try:
            found_bytes = await self._objects.size_async(key)
        except FileNotFoundError:
            raise WeightsMissingError(model_id) from None
        if found_bytes != size_bytes:
            raise WeightsMissingError(model_id)

    async def stored_chunks(self, model_id: str, key: str, start: int, stop: int) -> AsyncGenerator[memoryview]:
        """Yield the bytes `start`..`stop` of a model's file in the object store, about a megabyte at a time.

        Raises:
            WeightsMissingError: It is not in the object store.
            ObjectStoreError: The object store does not answer.
        """
        try:
            async with aclosing(self._objects.chunks(key, start, stop)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except FileNotFoundError:
            raise WeightsMissingError(model_id) from None

    def _open_recipe(self, recipe: Recipe) -> Descendant | None:
        family = self._learngenes.catalogue.family_by_digest(recipe.learngene)
        return None if family is None else Descendant(family, recipe)

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
        await self._learngenes.provide_for(model)
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
