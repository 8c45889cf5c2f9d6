"""What both clients share of a connection: how httpx is told of a request, and the errors of a bad address."""

from __future__ import annotations

from typing import Any

import httpx

from service.client.effect import Request
from service.client.errors import ClientError

TIMEOUT_S = 30.0
DOWNLOAD_CHUNK_BYTES = 1024 * 1024


def base_url(url: str) -> httpx.URL:
    """Return a server's address; `http` where it names no scheme. Raises `ClientError` where it is none."""
    try:
        return httpx.URL(url if "://" in url else f"http://{url}")
    except httpx.InvalidURL as error:
        raise ClientError(f"{url!r} is no URL: {error}") from None


def options(request: Request) -> dict[str, Any]:
    """Return a request as the keyword arguments of httpx, but for a body that is streamed."""
    headers = dict(request.headers)
    if request.upload is not None:
        headers["Content-Length"] = str(request.upload.size_bytes)
    return {
        "method": request.method,
        "url": request.path,
        "params": dict(request.params),
        "headers": headers,
        "timeout": httpx.Timeout(TIMEOUT_S, read=request.read_timeout_s),
    } | ({} if request.json is None else {"json": request.json})
