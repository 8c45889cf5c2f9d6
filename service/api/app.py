"""The application: routes, error handlers, and the resources that it opens on start and closes at the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import Depends, FastAPI
from fastapi_offline import FastAPIOffline
from redis.asyncio import ConnectionPool, Redis

from service.api.body_limit import BodyLimit
from service.api.dependencies import Resources
from service.api.learning_curve import LearningCurves
from service.api.long_work import LongWork
from service.api.openapi import install_document
from service.api.problems import install_problem_handlers
from service.api.query_names import refuse_odd_queries
from service.api.routes import datasets, exports, fine_tunes, frontier, health, hub, learngenes, models, page, trainings
from service.api.schemas.problems import problem_responses
from service.api.upload import UploadLimits
from service.domain.catalogue import Catalogue
from service.domain.errors import StoreUnavailableError
from service.ingest.ingestion import Ingestion
from service.ingest.limits import Limits
from service.settings import Settings
from service.storage.dataset_store import DatasetStore
from service.storage.job_store import JobStore
from service.storage.learngene_publisher import PublicationLimits
from service.storage.learngene_registry import LearngeneRegistry, load_catalogue
from service.storage.learngene_store import LearngeneStore
from service.storage.model_store import ModelStore
from service.storage.object_store import ObjectStore
from service.storage.weights import Weights
from tleg_core import __version__

logger = logging.getLogger(__name__)

_REDIS_CONNECTIONS = 512  # requests that may wait for Redis at once; more are answered 503
_REDIS_TIMEOUT_S = 5

_DESCRIPTION = """
Initialised vision Transformers of any depth, expanded on demand from a trained learngene.

`POST /models` with a budget, download the weights as safetensors, load them in plain timm; or point `HF_ENDPOINT` here and
call `timm.create_model("hf-hub:tleg/<model-id>", pretrained=True)`.
"""


def create_app(settings: Settings, catalogue: Catalogue | None = None) -> FastAPI:
    """Return the application; nothing but the object store is opened before it starts.

    Args:
        settings: What the operator decided.
        catalogue: The server's own learngenes, opened already; None opens what the settings name on start.

    Raises:
        StoreUnavailableError: The settings name no Redis.
        ObjectStoreError: The settings name no object store that there can be.
    """
    redis_url = settings.redis_url
    if redis_url is None:
        raise StoreUnavailableError("no Redis: set TLEG_REDIS_URL, or start with `tleg serve`")
    objects = ObjectStore(settings.object_store_url)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        pool = ConnectionPool.from_url(
            redis_url,
            decode_responses=True,
            max_connections=_REDIS_CONNECTIONS,
            socket_timeout=_REDIS_TIMEOUT_S,
        )
        redis = Redis(connection_pool=pool)
        own = catalogue or load_catalogue(settings.learngenes, shipped=settings.shipped)
        publishable = PublicationLimits(max_bytes=settings.max_learngene_bytes, max_total_bytes=settings.max_published_bytes)
        registry = LearngeneRegistry(own, LearngeneStore(redis), objects, limits=publishable)
        store = ModelStore(redis)
        jobs = JobStore(redis, heartbeat_s=settings.heartbeat_s, max_deaths=settings.max_deaths)
        recorded = DatasetStore(redis)
        limits = Limits(
            max_images=settings.max_dataset_images,
            max_pixels=settings.max_image_pixels,
            max_unpacked_bytes=2 * settings.max_upload_bytes,
        )
        uploads = settings.data_dir.expanduser().absolute() / "uploads"
        ingestion = Ingestion(uploads, limits=limits, datasets=recorded, objects=objects)
        app.state.resources = Resources(
            learngenes=registry,
            store=store,
            weights=Weights(registry, store, objects),
            objects=objects,
            datasets=recorded,
            ingestion=ingestion,
            upload_limits=UploadLimits(max_bytes=settings.max_upload_bytes, idle_s=settings.upload_idle_s),
            learngene_limits=UploadLimits(max_bytes=settings.max_learngene_bytes, idle_s=settings.upload_idle_s),
            jobs=jobs,
            curves=LearningCurves(jobs),
            long_work=LongWork(),
        )
        try:
            await registry.refresh()
            await registry.clean()
        except StoreUnavailableError as error:
            logger.warning("%s; requests that need it are answered 503 until it does", error, extra={"action": "redis_away"})
        await ingestion.clean()
        watching = asyncio.create_task(registry.watch())
        try:
            yield
        finally:
            app.state.resources.draining = True
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
            await redis.aclose()
            await pool.aclose()

    app: FastAPI = FastAPIOffline(
        title="tleg", version=__version__, description=_DESCRIPTION, lifespan=lifespan, redoc_url=None, license_info=_LICENCE
    )
    app.add_middleware(
        BodyLimit, max_bytes=settings.max_body_bytes, unlimited=[("POST", datasets.PATH), ("POST", learngenes.PATH)]
    )
    install_problem_handlers(app)
    for resource in (models, exports, datasets, fine_tunes, trainings, learngenes, frontier):
        app.include_router(resource.router, dependencies=_STRICT, responses=problem_responses(422))
    for outward in (health, hub, page):  # what other programs and browsers ask, with queries of their own
        app.include_router(outward.router)
    install_document(app)
    return app


_STRICT = [Depends(refuse_odd_queries)]
_LICENCE = {"name": "Apache-2.0", "identifier": "Apache-2.0"}
