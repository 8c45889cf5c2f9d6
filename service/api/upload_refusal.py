"""The answer to an upload that is refused, so that a client which is still sending sees it."""

from __future__ import annotations

import logging
from http import HTTPStatus

from fastapi import Request
from fastapi.responses import Response

from service.api.problems import problem_of, problem_response
from service.api.upload import drain
from tleg_core.errors import TlegError

logger = logging.getLogger(__name__)

CLIENT_CLOSED = 499
"""The status of an upload whose client went away: what other servers log; nobody is there to read it."""

_DRAINED_BYTES = 16 * 1024**2
_DRAINED_S = 2.0


async def refuse_upload(request: Request, error: TlegError, *, began: bool = True) -> Response:
    """Return the answer to an upload that is none, after reading on for a while.

    The connection is of no use afterwards: the rest of the body may follow.

    Args:
        request: The upload.
        error: What is wrong with it.
        began: Whether the body was being read; where it was not, a client that asked first (Expect) sends nothing any more.
    """
    if began or "expect" not in request.headers:
        await drain(request, max_bytes=_DRAINED_BYTES, seconds=_DRAINED_S)
    problem = problem_of(error)
    log = logger.error if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR else logger.info
    log(problem.detail, extra={"action": "upload_refused", "code": problem.code})
    return problem_response(problem, {"Connection": "close"})
