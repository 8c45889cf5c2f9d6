"""The client of a tleg server: the API's verbs, typed, and downloads that resume.

Downloads go to a partial file named after the model, whose bytes its id determines; so a broken one is taken up where it
stopped, in this run or in a later one, and the file appears under its name only after its digest was checked.
"""

from __future__ import annotations

import fcntl
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from service.api.schemas.learngenes import LearngeneList
from service.api.schemas.models import CreatedModel, ModelList, ModelRequestBody, ModelResource
from service.api.schemas.problems import Problem
from service.domain.model import is_model_id
from tleg_core.errors import TlegError

_TIMEOUT_S = 30.0
_DOWNLOAD_TRIES = 5
_CHUNK_BYTES = 1024 * 1024

BodyT = TypeVar("BodyT", bound=BaseModel)
Progress = Callable[[int, int], None]
"""Called with the bytes that are there and the bytes in all."""


class ClientError(TlegError):
    """The server cannot be reached, or refused."""

    def __init__(self, message: str, problem: Problem | None = None) -> None:
        super().__init__(message)
        self.problem = problem


class Client:
    """A connection to one server; use it as a context manager.

    Args:
        url: The server's address, such as `http://127.0.0.1:8000`.
        transport: Another way to the server, for tests.

    Every method raises `ClientError` where the server cannot be reached or refuses; its `problem` says why.
    """

    def __init__(self, url: str, *, transport: httpx.BaseTransport | None = None) -> None:
        self._url = url if "://" in url else f"http://{url}"
        try:
            self._http = httpx.Client(base_url=self._url, timeout=_TIMEOUT_S, transport=transport)
        except httpx.InvalidURL as error:
            raise ClientError(f"{url!r} is no URL: {error}") from None

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the connection."""
        self._http.close()

    def create_model(self, body: ModelRequestBody, *, dry_run: bool = False) -> CreatedModel:
        """Create the best model within a budget."""
        content = body.model_dump(mode="json", exclude_unset=True)
        return self._call(CreatedModel, "POST", "/models", json=content, params={"dry_run": dry_run})

    def get_model(self, model_id: str) -> ModelResource:
        """Return one model."""
        return self._call(ModelResource, "GET", f"/models/{_segment(model_id)}")

    def list_models(self, *, limit: int = 20, after: str | None = None) -> ModelList:
        """Return a page of models, newest first."""
        return self._call(ModelList, "GET", "/models", params=_given(limit=limit, after=after))

    def list_learngenes(self, *, limit: int = 20, after: str | None = None) -> LearngeneList:
        """Return a page of learngenes, by name."""
        return self._call(LearngeneList, "GET", "/learngenes", params=_given(limit=limit, after=after))

    def download(self, model_id: str, path: Path, *, progress: Progress | None = None) -> ModelResource:
        """Download a model's weights to `path` and check their digest.

        Raises:
            ClientError: It cannot be had, breaks off `_DOWNLOAD_TRIES` times without progress, or its digest is wrong.
        """
        if path.is_dir():
            raise ClientError(f"{path}: is a folder")
        model = self.get_model(model_id)
        if model.id != model_id or not is_model_id(model.id):
            raise ClientError(f"asked for {model_id!r}, the server answered with another model")
        partial = path.with_name(f".{path.name}.{model.id}.part")
        fruitless = 0
        try:
            while (have := partial.stat().st_size if partial.exists() else 0) < model.size_bytes:
                reason = "the server sent nothing"
                try:
                    self._fetch(model, partial, have, progress)
                except httpx.TransportError as error:
                    reason = str(error)
                fruitless = 0 if partial.exists() and partial.stat().st_size > have else fruitless + 1
                if fruitless >= _DOWNLOAD_TRIES:
                    raise ClientError(f"the download broke off: {reason}; run it again to go on")
                time.sleep(0.1 * 2**fruitless if fruitless else 0)
            if _sha256(partial) != model.sha256:
                partial.unlink()
                raise ClientError(f"the download's digest is not the model's {model.sha256}; it was thrown away")
            partial.replace(path)
        except OSError as error:
            raise ClientError(f"{path}: cannot be written: {error.strerror}") from None
        return model

    def _fetch(self, model: ModelResource, partial: Path, have: int, progress: Progress | None) -> None:
        """Append what is missing to the partial file."""
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with self._http.stream("GET", f"/models/{model.id}/weights", headers=headers) as response:
            if response.status_code not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
                response.read()
                raise self._error(response)
            if have and response.status_code != httpx.codes.PARTIAL_CONTENT:
                have = 0
            with partial.open("ab") as file:
                _own(file, partial)
                file.truncate(have)
                for chunk in response.iter_raw(_CHUNK_BYTES):
                    if have + len(chunk) > model.size_bytes:
                        raise ClientError(f"the server sends more than the {model.size_bytes:,} bytes that the model has")
                    file.write(chunk)
                    have += len(chunk)
                    if progress is not None:
                        progress(have, model.size_bytes)

    def _call(self, kind: type[BodyT], method: str, path: str, **options: Any) -> BodyT:
        try:
            response = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            hint = "; is it running? `tleg serve` starts one" if isinstance(error, httpx.ConnectError) else ""
            raise ClientError(f"no answer from {self._url}: {error}{hint}") from None
        if response.is_error:
            raise self._error(response)
        try:
            return kind.model_validate_json(response.content)
        except ValidationError:
            raise ClientError(f"{self._url} answered {method} {path} with something else than tleg does") from None

    @staticmethod
    def _error(response: httpx.Response) -> ClientError:
        try:
            problem = Problem.model_validate_json(response.content)
        except ValidationError:
            return ClientError(f"the server answered {response.status_code} {response.reason_phrase}")
        return ClientError(problem.detail, problem)


def _own(file: IO[bytes], path: Path) -> None:
    """Lock the partial file until it is closed; raises `ClientError` where another download writes it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ClientError(f"{path}: another download of this model to this place is under way") from None


def _segment(text: str) -> str:
    """Return text as one segment of a path."""
    return quote(text, safe="") or "-"


def _given(**values: str | int | None) -> dict[str, str | int]:
    """Return the values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
