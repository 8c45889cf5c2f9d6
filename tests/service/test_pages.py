"""What people see in a browser: the page at the root and the API's documentation, both without foreign addresses."""

from __future__ import annotations

import asyncio
import re
from html.parser import HTMLParser
from pathlib import Path

from redis.asyncio import Redis
from starlette.testclient import TestClient

from service.domain.job import FineTuneSpec, Progress
from service.storage.dataset_store import DatasetStore
from service.storage.job_store import JobStore
from tests.service import tiny
from tests.service.conftest import ApiFactory
from tests.service.fine_tuned import SETTINGS, data_set


class _Links(HTMLParser):
    """Collects what a browser would load or offer."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []

    def handle_starttag(self, _tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.targets += [value for name, value in attrs if name in ("href", "src") and value]


def links(html: str) -> list[str]:
    """Return every href and src of a page."""
    parser = _Links()
    parser.feed(html)
    return parser.targets


def test_the_root_page_shows_learngenes_and_commands(api: TestClient) -> None:
    """Every learngene, the plot of every measured data set, and commands with this server's own address."""
    answer = api.get("/")
    assert answer.headers["Content-Type"].startswith("text/html")
    for text in ("tiny-tleg", "tiny-polynomial", "tiny-stagewise", "http://tleg.test/models", "80.0%", "digits", "<svg"):
        assert text in answer.text
    for link in links(answer.text):
        assert api.get(link).status_code == 200, link


def test_the_root_page_loads_nothing_from_elsewhere(api: TestClient) -> None:
    """It works where there is no internet."""
    assert not [link for link in links(api.get("/").text) if re.match(r"(https?:)?//", link)]


def test_the_root_page_works_without_any_learngene(open_api: ApiFactory, redis_url: str) -> None:
    """An empty server has a page, empty lists, and a POST that says why it gives nothing."""
    with open_api(redis_url, learngenes=()) as api:
        assert api.get("/").status_code == 200
        assert api.get("/learngenes").json()["data"] == []
        front = api.get("/frontier").json()
        assert (front["data"], front["data_set"]) == ([], None)
        answer = api.post("/models", json={})
        assert answer.status_code == 422
        assert "no learngene" in answer.json()["detail"]


def test_the_root_page_shows_fifty_learngenes(open_api: ApiFactory, redis_url: str, tmp_path: Path) -> None:
    """However many were published; it says how many more there are, and where."""
    files = [tmp_path / f"gene-{number:02}.safetensors" for number in range(52)]
    for file in files:
        tiny.learngene(file.stem).write(file)
    with open_api(redis_url, learngenes=tuple(files[:50])) as api:
        assert "not shown here" not in api.get("/").text
    with open_api(redis_url, learngenes=tuple(files)) as api:
        text = api.get("/").text
    assert "<h2>gene-49</h2>" in text
    assert "gene-50" not in text
    assert 'Learngenes that are not shown here: 2. <a href="/learngenes?limit=100">' in text


def test_the_root_page_shows_the_latest_jobs_and_data_sets(empty_api: TestClient, redis_url: str) -> None:
    """By name, with status, epoch and the latest accuracy; names are text, and every link leads somewhere."""
    url = f"{redis_url}?db=1"
    dataset = data_set(name="<i>petals</i>")
    model = empty_api.post("/models", json={"budget": {"depth": 2}}).json()["id"]

    async def record() -> str:
        async with Redis.from_url(url, decode_responses=True) as client:
            await DatasetStore(client).add(dataset)
            jobs = JobStore(client, heartbeat_s=60, max_deaths=3)
            job, _ = await jobs.create(FineTuneSpec(model=model, dataset=dataset.id, settings=SETTINGS, requested={}))
            claim = await jobs.claim(job.id, "worker")
            assert claim is not None
            metrics = {"loss": 0.4, "top1": 0.875, "top5": 1.0}
            await jobs.report(claim, Progress(epoch=2, step=20, steps=30, images_per_s=1234.5, metrics=metrics))
            return job.id

    job_id = asyncio.run(record())
    answer = empty_api.get("/")
    for text in (f"/fine-tunes/{job_id}", f"/datasets/{dataset.id}", "running", "2 of 3", "87.5%", "1,234"):
        assert text in answer.text
    assert answer.text.count("&lt;i&gt;petals&lt;/i&gt;") == 2
    assert "<i>" not in answer.text
    for link in links(answer.text):
        assert empty_api.get(link).status_code == 200, link


def test_the_root_page_keeps_trainings_apart_from_fine_tunes(empty_api: TestClient, redis_url: str) -> None:
    """A training stands under its own heading, with its own link."""
    dataset = data_set(name="petals")

    async def record() -> None:
        async with Redis.from_url(f"{redis_url}?db=1", decode_responses=True) as client:
            await DatasetStore(client).add(dataset)

    asyncio.run(record())
    training = empty_api.post("/learngenes/trainings", json={"name": "petals-gene", "dataset": dataset.id}).json()["id"]
    text = empty_api.get("/").text
    assert "Latest trainings of learngenes" in text
    assert "Latest fine-tunes" not in text
    assert f'href="/learngenes/trainings/{training}"' in text
    assert f'href="/fine-tunes/{training}"' not in text
    assert "petals-gene" in text
    for link in links(text):
        assert empty_api.get(link).status_code == 200, link
    model = empty_api.post("/models", json={"budget": {"depth": 2}}).json()["id"]
    fine_tune = empty_api.post("/fine-tunes", json={"model": model, "dataset": dataset.id}).json()["id"]
    text = empty_api.get("/").text
    assert text.index("Latest fine-tunes") < text.index(f"/fine-tunes/{fine_tune}") < text.index("Latest trainings")
    for link in links(text):
        assert empty_api.get(link).status_code == 200, link


def test_the_root_page_is_there_without_redis(open_api: ApiFactory, tmp_path: Path) -> None:
    """It says that jobs cannot be listed, and shows the rest."""
    with open_api(f"unix://{tmp_path}/nobody.sock") as api:
        answer = api.get("/")
        assert answer.status_code == 200
        assert "Redis does not answer" in answer.text
        assert "tiny-tleg" in answer.text


def test_the_root_page_escapes_the_host_header(api: TestClient) -> None:
    """A hostile Host cannot put markup into the page."""
    text = api.get("/", headers={"Host": "x<script>alert(1)</script>"}).text
    assert "<script>alert" not in text


def test_the_documentation_loads_nothing_from_elsewhere(api: TestClient) -> None:
    """/docs brings its own scripts: no address of a content delivery network, and every file of it is there."""
    html = api.get("/docs").text
    assert not re.findall(r"""["'](?:https?:)?//[^"']+""", html)
    targets = [link for link in links(html) if not link.startswith("data:")]
    assert targets
    for link in targets:
        assert api.get(link).status_code == 200, link
