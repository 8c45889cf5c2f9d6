"""The Hugging Face Hub's download routes, so that unmodified clients load models with `HF_ENDPOINT` pointing here.

A repository is `tleg/<model-id>`, or `tleg/<learngene>-d<depth>` for a member as it is, `tleg/<learngene>-p<path>` in a pool.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NoReturn

from fastapi import APIRouter, Depends, HTTPException, Path, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from service.api.dependencies import ResourcesDep
from service.api.file_response import ComputedFileResponse
from service.api.hub_repository import NAMESPACE, WEIGHTS_FILE, HubRepository, find_model, git_blob_sha1
from service.api.model_file import model_file
from service.api.schemas.files import file_responses
from service.api.schemas.problems import problem_responses
from service.domain.errors import ModelNotFoundError

router = APIRouter(tags=["hub"])

Namespace = Annotated[str, Path(description="Always `tleg`.")]
Name = Annotated[str, Path(description="A model's id, `<learngene>-d<depth>`, or of a pool `<learngene>-p<path>`.")]
Revision = Annotated[str, Path(description="`main`, or the commit of 40 hex digits.")]


class HubInfo(BaseModel):
    """What the Hub says of a repository."""

    model_config = ConfigDict(extra="allow")

    id: str = Field(description="The repository's name.")
    sha: str = Field(description="The commit of `main`, 40 hex digits.")
    siblings: list[dict[str, str]] = Field(description="Every file, as `rfilename`.")


class HubFile(BaseModel):
    """One file of a repository's listing."""

    type: Literal["file"] = Field("file", description="Always `file`.")
    path: str = Field(description="The file's name.")
    size: int = Field(description="Its length in bytes.")
    oid: str = Field(description="The sha1 of its git blob; of its pointer for the weights.")
    lfs: dict[str, str | int] | None = Field(None, description="The weights' sha256 (`oid`), `size` and `pointerSize`.")


def _not_found(code: str, detail: str, commit: str | None = None) -> NoReturn:
    headers = {"X-Error-Code": code, "X-Error-Message": detail} | ({"X-Repo-Commit": commit} if commit else {})
    raise HTTPException(404, detail, headers=headers)


async def _repository(resources: ResourcesDep, namespace: Namespace, name: Name) -> HubRepository:
    """Return the repository, or answer as the Hub does where there is none."""
    if namespace != NAMESPACE:
        _not_found("RepoNotFound", f"repositories here are named {NAMESPACE}/<model-id>")
    try:
        model = await find_model(name, resources.learngenes, resources.weights)
    except ModelNotFoundError:
        _not_found("RepoNotFound", "there is no such model; POST /models creates one")
    return HubRepository.of(name, model, resources.catalogue, await resources.curves.of(model))


RepositoryDep = Annotated[HubRepository, Depends(_repository)]


def _checked(repository: HubRepository, revision: str) -> HubRepository:
    if not repository.has_revision(revision):
        _not_found("RevisionNotFound", "there is no such revision; there is main", repository.commit)
    return repository


@router.get("/api/models/{namespace}/{name}", summary="A repository", responses=problem_responses(404, 503))
async def repository_info(repository: RepositoryDep) -> HubInfo:
    """Return the repository's commit and files."""
    return HubInfo(**repository.info())


@router.get(
    "/api/models/{namespace}/{name}/revision/{revision:path}", summary="A revision", responses=problem_responses(404, 503)
)
async def revision_info(repository: RepositoryDep, revision: Revision) -> HubInfo:
    """Return the repository's commit and files at a revision."""
    return HubInfo(**_checked(repository, revision).info())


@router.get(
    "/api/models/{namespace}/{name}/tree/{revision}",
    summary="The files of a revision",
    response_model_exclude_none=True,
    responses=problem_responses(404, 503),
)
async def tree(resources: ResourcesDep, repository: RepositoryDep, revision: Revision) -> list[HubFile]:
    """Return every file with its size and digest."""
    _checked(repository, revision)
    sha256 = await resources.weights.sha256(repository.model)
    return [HubFile(**entry) for entry in repository.tree(sha256)]


@router.head("/{namespace}/{name}/resolve/{revision}/{file:path}", summary="Size and ETag", responses=file_responses())
@router.get(
    "/{namespace}/{name}/resolve/{revision}/{file:path}",
    summary="Download a file",
    responses=file_responses(),
    response_class=Response,
)
async def resolve(
    request: Request,
    resources: ResourcesDep,
    repository: RepositoryDep,
    revision: Revision,
    file: Annotated[str, Path(description="config.json, model.safetensors or README.md.")],
) -> Response:
    """Return one file, whole or the range asked for."""
    _checked(repository, revision)
    headers: dict[str, Any] = {"X-Repo-Commit": repository.commit}
    if file == WEIGHTS_FILE:
        model = repository.model
        etag = await resources.weights.sha256(model)
        headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(model.size_bytes)}
        return await model_file(
            request, resources.weights, model, etag=etag, filename=file, headers=headers, immutable=revision != "main"
        )
    if file not in repository.plain_files:
        _not_found("EntryNotFound", "there is no such file in the repository", repository.commit)
    content = memoryview(repository.plain_files[file])
    return ComputedFileResponse(
        request,
        size=len(content),
        etag=git_blob_sha1(bytes(content)),
        blocks=lambda start, stop: iter([content[start:stop]]),
        filename=file,
        headers=headers,
        immutable=revision != "main",
    )
