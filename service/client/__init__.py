"""The client of a tleg server: the API's verbs, typed by its schemas, for code that blocks and for asyncio.

    with Client("http://127.0.0.1:8000") as client:
        dataset = client.upload_dataset(Path("flowers"))
        job = client.create_fine_tune(FineTuneBody(budget=BudgetBody(max_params=3_000_000), dataset=dataset.id))
        for event in client.events(job.id):
            print(event.kind, event.facts)
        client.download_result(job.id, Path("flowers.safetensors"))

`AsyncClient` has the same verbs, to be awaited. What a verb does is written once, without input or output (`effect`).
"""

from service.api.schemas.budget import BudgetBody
from service.api.schemas.fine_tunes import FineTuneBody, FineTuneSettingsBody
from service.api.schemas.models import ModelRequestBody
from service.api.schemas.trainings import TrainingBody
from service.client.async_client import AsyncClient
from service.client.errors import ClientError, ExportError, FineTuneError, JobFailedError, TrainingError, WaitTimeoutError
from service.client.sync_client import Client

__all__ = [
    "AsyncClient",
    "BudgetBody",
    "Client",
    "ClientError",
    "ExportError",
    "FineTuneBody",
    "FineTuneError",
    "FineTuneSettingsBody",
    "JobFailedError",
    "ModelRequestBody",
    "TrainingBody",
    "TrainingError",
    "WaitTimeoutError",
]
