"""The Hub's routes: by hand, and under unmodified huggingface_hub, timm and transformers from an empty cache."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from service.api.hub_repository import git_blob_sha1
from service.domain.model import Model
from service.storage.embedded_redis import running_url
from service.storage.object_store import ObjectStore
from tests.service.fine_tuned import CLASS_NAMES as PETALS
from tests.service.fine_tuned import Workshop, data_set
from tests.service.server import ServerProcess, environment


@pytest.fixture(scope="module")
def model(http: httpx.Client) -> dict[str, Any]:
    """A model of the tiny TLEG learngene as it is, of depth 12: 600 kB."""
    created: dict[str, Any] = http.post("/models", json={"learngene": "tiny-tleg", "budget": {"depth": 12}}).json()
    return created


def hub_client(name: str, *arguments: str, endpoint: str, home: Path) -> Any:
    """Run a function of `hub_clients` in a process of its own and return its result."""
    env = environment(HF_ENDPOINT=endpoint, HF_HOME=str(home), HF_HUB_DISABLE_PROGRESS_BARS="1", TQDM_DISABLE="1")
    command = [sys.executable, "-m", "tests.service.hub_clients", name, *arguments]
    answer = subprocess.run(
        command, capture_output=True, text=True, env=env, check=False, cwd=Path(__file__).parents[2], timeout=110
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout.splitlines()[-1])


def test_head_of_a_file_has_what_clients_need(api: TestClient) -> None:
    """Commit of 40 hex digits, tag and length, for the weights those of the large file too; never compressed."""
    model = api.post("/models", json={"learngene": "tiny-tleg", "budget": {"depth": 2}}).json()
    for file in ("config.json", "model.safetensors", "README.md"):
        path = f"/tleg/{model['id']}/resolve/main/{file}"
        head, get = api.head(path), api.get(path, headers={"Accept-Encoding": "identity"})
        assert head.status_code == get.status_code == 200
        assert head.headers == get.headers
        assert int(head.headers["Content-Length"]) == len(get.content)
        assert len(bytes.fromhex(head.headers["X-Repo-Commit"])) == 20
        assert not [name for name in head.headers if name.lower().startswith("x-xet")]
        etag = head.headers["ETag"].strip('"')
        if file == "model.safetensors":
            assert etag == head.headers["X-Linked-Etag"].strip('"') == hashlib.sha256(get.content).hexdigest()
            assert head.headers["X-Linked-Size"] == head.headers["Content-Length"]
        else:
            assert etag == git_blob_sha1(get.content)


def test_git_blob_sha1_is_gits() -> None:
    """`git hash-object` says the same."""
    content = b"some content\n"
    answer = subprocess.run(["git", "hash-object", "--stdin"], input=content, capture_output=True, check=True)
    assert git_blob_sha1(content) == answer.stdout.decode().strip()


def test_a_range_of_the_header_is_enough_for_metadata(api: TestClient) -> None:
    """`Range: bytes=0-100000`, as get_safetensors_metadata asks, is a 206 even where the file is shorter."""
    answer = api.get("/tleg/tiny-tleg-d1/resolve/main/model.safetensors", headers={"Range": "bytes=0-100000"})
    assert answer.status_code == 206
    length = int.from_bytes(answer.content[:8], "little")
    assert json.loads(answer.content[8 : 8 + length])["__metadata__"]["format"] == "pt"


def test_the_tree_lists_every_file_with_its_digest(api: TestClient) -> None:
    """Plain files by git's sha1, the weights by their sha256, at main and at the commit."""
    info = api.get("/api/models/tleg/tiny-tleg-d2").json()
    for revision in ("main", info["sha"]):
        tree = api.get(f"/api/models/tleg/tiny-tleg-d2/tree/{revision}", params={"recursive": True, "expand": False}).json()
        assert sorted(entry["path"] for entry in tree) == sorted(item["rfilename"] for item in info["siblings"])
        for entry in tree:
            content = api.get(f"/tleg/tiny-tleg-d2/resolve/{revision}/{entry['path']}").content
            assert entry["size"] == len(content)
            if entry["path"] == "model.safetensors":
                assert entry["lfs"]["oid"] == hashlib.sha256(content).hexdigest()
            else:
                assert entry["oid"] == git_blob_sha1(content)
    assert api.get("/api/models/tleg/tiny-tleg-d2/revision/main").json() == info


def test_a_readable_name_is_the_member_as_it_is(api: TestClient) -> None:
    """`<learngene>-d<depth>` has the weights of the model that a plain request makes."""
    model = api.post("/models", json={"learngene": "tiny-stagewise", "budget": {"depth": 7}}).json()
    by_name = api.get("/tleg/tiny-stagewise-d7/resolve/main/model.safetensors").content
    assert by_name == api.get(model["links"]["weights"]).content
    card = api.get("/tleg/tiny-stagewise-d7/resolve/main/README.md").text
    assert "hf-hub:tleg/tiny-stagewise-d7" in card
    assert card.startswith("---\n")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/tleg/tiny-tleg-d2/resolve/main/pytorch_model.bin", "EntryNotFound"),
        ("/tleg/tiny-tleg-d2/resolve/main/sub/model.safetensors", "EntryNotFound"),
        ("/tleg/tiny-tleg-d2/resolve/main/..%2f..%2fetc%2fpasswd", "EntryNotFound"),
        ("/tleg/tiny-tleg-d2/resolve/v1/config.json", "RevisionNotFound"),
        (f"/tleg/tiny-tleg-d2/resolve/{'0' * 40}/config.json", "RevisionNotFound"),
        ("/tleg/tiny-tleg-d13/resolve/main/config.json", "RepoNotFound"),
        ("/tleg/tiny-tleg-d0/resolve/main/config.json", "RepoNotFound"),
        ("/tleg/tiny-tleg-d9999/resolve/main/config.json", "RepoNotFound"),
        ("/tleg/tiny-stagewise-d4/resolve/main/config.json", "RepoNotFound"),
        ("/tleg/nobody-d2/resolve/main/config.json", "RepoNotFound"),
        ("/tleg/tiny-tleg/resolve/main/config.json", "RepoNotFound"),
        (f"/tleg/m-{'0' * 32}/resolve/main/config.json", "RepoNotFound"),
        ("/somebody/tiny-tleg-d2/resolve/main/config.json", "RepoNotFound"),
        ("/api/models/tleg/nobody", "RepoNotFound"),
        ("/api/models/tleg/tiny-tleg-d2/revision/v1", "RevisionNotFound"),
        ("/api/models/tleg/tiny-tleg-d2/tree/v1", "RevisionNotFound"),
    ],
)
def test_what_is_missing_is_named_as_the_hub_does(api: TestClient, path: str, code: str) -> None:
    """404 with X-Error-Code, and the commit where there is a repository; a problem for everyone else."""
    answer = api.get(path)
    assert (answer.status_code, answer.headers["X-Error-Code"]) == (404, code)
    assert ("X-Repo-Commit" in answer.headers) is (code != "RepoNotFound")
    assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.slow
def test_huggingface_hub_works_unmodified(server: ServerProcess, model: dict[str, Any], tmp_path: Path) -> None:
    """Downloads, snapshots, metadata, listings, pins and its own errors."""
    result = hub_client("huggingface_hub", f"tleg/{model['id']}", endpoint=server.url, home=tmp_path)
    content = Path(result["path"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == model["sha256"] == result["lfs_sha256"]
    assert result["snapshot"] == result["siblings"] == ["README.md", "config.json", "model.safetensors"]
    assert result["sizes"]["model.safetensors"] == model["size_bytes"]
    assert result["parameters"] == model["params"]
    assert result["pinned"]
    assert result["exists"] == [True, False, True]
    kinds = ["Entry", "Revision", "Revision", "Repository", "Repository", "Repository", "Revision"]
    assert result["errors"] == [f"{kind}NotFoundError" for kind in kinds]


@pytest.mark.slow
def test_timm_and_transformers_load_it_unmodified(
    server: ServerProcess, http: httpx.Client, model: dict[str, Any], tmp_path: Path
) -> None:
    """Also pinned, by the readable name, with another head and image size; and the logits are those of the file itself."""
    by_hand = tmp_path / "by-hand.safetensors"
    by_hand.write_bytes(http.get(model["links"]["weights"]).content)
    repo = f"tleg/{model['id']}"
    commit = http.get(f"/api/models/{repo}").json()["sha"]
    arguments = (repo, "tleg/tiny-tleg-d12", commit, str(by_hand))
    result = hub_client("model_libraries", *arguments, endpoint=server.url, home=tmp_path / "home")
    assert any(result["by hand"][0])
    for name in ("timm", "timm, pinned", "timm, by its readable name"):
        assert result[name] == result["by hand"]  # the same code on the same numbers
    assert result["transformers"][0] == pytest.approx(result["by hand"][0], abs=1e-5)  # its own wrapper around timm
    assert result["labels"] == [f"class {index}" for index in range(10)]
    assert result["mean"] == [0.5, 0.5, 0.5]
    assert result["other head"] == [3, 32]
    assert result["other head's blocks"]
    assert result["larger"] == 10


@pytest.mark.slow
def test_the_hf_command_downloads_and_verifies(server: ServerProcess, model: dict[str, Any], tmp_path: Path) -> None:
    """`hf download`, then `hf cache verify`, which compares digests with the listing; and a damaged file is found."""
    env = environment(HF_ENDPOINT=server.url, HF_HOME=str(tmp_path))
    hf = Path(sys.executable).with_name("hf")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(hf), *arguments], capture_output=True, text=True, env=env, check=False, timeout=100)

    repo = f"tleg/{model['id']}"
    downloaded = run("download", repo)
    assert downloaded.returncode == 0, downloaded.stderr
    verified = run("cache", "verify", repo)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    (blob,) = [path for path in tmp_path.rglob("blobs/*") if path.name == model["sha256"]]
    damaged = bytearray(blob.read_bytes())
    damaged[-1] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(damaged)
    assert run("cache", "verify", repo).returncode != 0


@pytest.fixture(scope="module")
def workshop(server: ServerProcess, learngene_files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """The server's Redis and object store."""
    return Workshop(
        redis_url=running_url(server.data_dir),
        objects=ObjectStore((server.data_dir / "objects").as_uri()),
        learngenes=learngene_files,
        folder=tmp_path_factory.mktemp("workshop"),
    )


@pytest.mark.slow
def test_clients_load_fine_tuned_models_unmodified(
    http: httpx.Client, server: ServerProcess, workshop: Workshop, tmp_path: Path
) -> None:
    """Of two learngenes, and a fine-tune of each: weights of the file, labels, the card's own example, base and results."""
    expected: list[tuple[str, Model]] = []
    for learngene in ("tiny-tleg", "tiny-stagewise"):
        base: str = http.post("/models", json={"learngene": learngene, "budget": {"depth": 7}}).json()["id"]
        for class_names in (PETALS, ("cat", "dog")):
            model = workshop.publish(base, dataset=data_set(class_names))
            expected.append((base, model))
            base = model.id
    arguments = [text for _, model in expected for text in (f"tleg/{model.id}", str(workshop.file(model)))]
    results = hub_client("fine_tuned", *arguments, endpoint=server.url, home=tmp_path)
    for (base, model), result in zip(expected, results, strict=True):
        names = [] if model.fine_tuning is None else list(model.fine_tuning.class_names)
        assert result["equal"]
        assert result["difference"] < 1e-5
        assert result["labels"] == result["transformers' labels"] == names
        assert result["shown"][0] in names
        assert result["snapshot"] == ["README.md", "config.json", "model.safetensors"]
        assert hashlib.sha256(Path(result["downloaded"]).read_bytes()).hexdigest() == model.content_digest == result["lfs"]
        assert result["base"] == f"tleg/{base}"
        assert result["results"][0] == ["petals", "accuracy", 0.875]
        assert "fine-tuned" in result["tags"]


@pytest.fixture
def cutting_proxy(server: ServerProcess) -> Iterator[tuple[str, list[str | None]]]:
    """A proxy that breaks the first download of weights off after 12 MB; gives its address and the ranges asked for."""
    ranges: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.forward()

        def do_GET(self) -> None:
            self.forward()

        def forward(self) -> None:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
            answer = httpx.request(self.command, f"{server.url}{self.path}", headers=headers)
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            content = answer.content
            if self.command == "GET" and self.path.endswith("model.safetensors"):
                ranges.append(self.headers.get("Range"))
                if len(ranges) == 1:
                    content = content[:12_000_000]
                    self.close_connection = True
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as proxy:
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{proxy.server_address[1]}", ranges
        proxy.shutdown()
        thread.join()


@pytest.mark.slow
def test_huggingface_hub_resumes_a_broken_download(
    cutting_proxy: tuple[str, list[str | None]], http: httpx.Client, tmp_path: Path
) -> None:
    """Cut off in the middle of 22 MB, it asks for the rest by Range, and the file is whole."""
    endpoint, ranges = cutting_proxy
    path = Path(hub_client("download", "tleg/large-tleg-d3", endpoint=endpoint, home=tmp_path))
    assert path.read_bytes() == http.get("/tleg/large-tleg-d3/resolve/main/model.safetensors").content
    assert ranges == [None, "bytes=10485760-"]  # it keeps whole chunks of 10 MiB


@pytest.mark.slow
def test_huggingface_hub_resumes_a_broken_download_of_stored_weights(
    cutting_proxy: tuple[str, list[str | None]],
    http: httpx.Client,
    workshop: Workshop,
    large_learngene_file: Path,
    tmp_path: Path,
) -> None:
    """A fine-tuned model of 16 MB, cut off after 12, is whole after the rest was asked for by Range."""
    endpoint, ranges = cutting_proxy
    base = http.post("/models", json={"learngene": "large-tleg", "budget": {"depth": 2}}).json()["id"]
    model = replace(workshop, learngenes=[large_learngene_file]).publish(base)
    path = Path(hub_client("download", f"tleg/{model.id}", endpoint=endpoint, home=tmp_path))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == model.content_digest
    assert ranges == [None, "bytes=10485760-"]
