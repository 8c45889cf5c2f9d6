"""The runs of a comparison: units given to worker processes as soon as what they need is done; resumable at any moment.

Only this process writes results, one line a unit, so a killed comparison goes on where it was. On a CPU each worker has one
thread, so that a unit's result does not depend on how many there are; on a GPU there is one worker.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol

from tleg_core.comparison.plan import Plan
from tleg_core.comparison.results import Result, Results
from tleg_core.comparison.unit import Unit, UnitKind
from tleg_core.errors import TlegError

_STOP_S = 5.0  # what a worker gets to end
_EXECUTION = "tleg_core.comparison.execution"
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class UnitFailedError(TlegError):
    """A unit of a comparison failed."""


class Progress(Protocol):
    """Is told how the runs go."""

    def started(self, unit: Unit) -> None:
        """A worker began a unit."""
        ...

    def done(self, unit: Unit, result: Result) -> None:
        """A unit's result is kept."""
        ...


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    connection: Connection
    life: Connection
    unit: Unit | None = None


def run_plan(
    plan: Plan, results: Results, folder: Path, *, workers: int, device: str, ancestry: Path | None, progress: Progress
) -> None:
    """Do every unit of the plan that has no result yet.

    Args:
        plan: What is to be done.
        results: What is done; it is added to.
        folder: The comparison's folder.
        workers: Processes, at most as many as there is work for.
        device: Where they compute.
        ancestry: The ancestry model's file, or None.
        progress: Is told of each unit.

    Raises:
        UnitFailedError: A unit failed, or its process died; what was done before is kept.
    """
    waiting = [unit for name, unit in plan.units.items() if name not in results]
    count = min(workers, len(waiting))
    with _started(count, folder, device, ancestry) as pool:
        while waiting or any(worker.unit for worker in pool):
            for worker in pool:
                if worker.unit is None and (unit := _next(waiting, results)) is not None:
                    waiting.remove(unit)
                    worker.unit = unit
                    _give(worker.connection, unit, [results[name] for name in unit.needs])
                    progress.started(unit)
            for worker in _answering(pool):
                unit = worker.unit
                assert unit is not None  # noqa: S101 (only those that have one are waited for)
                result = _answer(worker, unit)
                results.append(result)
                worker.unit = None
                progress.done(unit, result)


def _next(waiting: Sequence[Unit], results: Results) -> Unit | None:
    """Return the first unit whose needs are done."""
    return next((unit for unit in waiting if all(name in results for name in unit.needs)), None)


def _answering(pool: Sequence[_Worker]) -> list[_Worker]:
    """Wait, and return the busy workers that have something to say or have died."""
    busy = {worker.connection: worker for worker in pool if worker.unit is not None}
    return [busy[connection] for connection in wait(list(busy)) if isinstance(connection, Connection)]


def _give(connection: Connection, unit: Unit, needed: Sequence[Result]) -> None:
    connection.send_bytes(json.dumps({"unit": asdict(unit), "needed": needed}).encode())


def _answer(worker: _Worker, unit: Unit) -> Result:
    try:
        answer: Mapping[str, Result | str] = json.loads(worker.connection.recv_bytes())
    except (EOFError, OSError) as error:
        worker.process.join(_STOP_S)
        raise UnitFailedError(
            f"{unit.label}: its process died (exit code {worker.process.exitcode}); the same command goes on from here"
        ) from error
    result = answer.get("result")
    if not isinstance(result, Mapping):
        raise UnitFailedError(f"{unit.label}: {answer['error']}")
    return result


@contextmanager
def _started(count: int, folder: Path, device: str, ancestry: Path | None) -> Iterator[list[_Worker]]:
    """Give so many worker processes, and end them at the end of the block."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_EXECUTION])  # torch and timm are loaded once, and never in this process
    pool: list[_Worker] = []
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))  # read when numpy and torch are loaded
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            life, watched = context.Pipe()
            arguments = (theirs, watched, str(folder), device, None if ancestry is None else str(ancestry))
            process = context.Process(target=_work, args=arguments, daemon=True)
            process.start()
            theirs.close()
            watched.close()
            pool.append(_Worker(process=process, connection=ours, life=life))
        yield pool
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        for worker in pool:
            worker.connection.close()
            worker.life.close()
            worker.process.terminate()
            worker.process.join(_STOP_S)


def _work(connection: Connection, life: Connection, folder: str, device: str, ancestry: str | None) -> None:
    """Do units until the connection closes: the whole life of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(life,), daemon=True).start()
    import torch  # noqa: PLC0415 (the parent, which only plans, may need none)

    from tleg_core.comparison.execution import Bench  # noqa: PLC0415

    torch.set_num_threads(1)
    bench = Bench(Path(folder), torch.device(device), None if ancestry is None else Path(ancestry))
    with suppress(EOFError, OSError):
        while True:
            order = json.loads(connection.recv_bytes())
            described = order["unit"]
            unit = Unit(**described | {"kind": UnitKind(described["kind"]), "needs": tuple(described["needs"])})
            try:
                answer: dict[str, object] = {"result": bench.run(unit, order["needed"])}
            except (TlegError, RuntimeError, OSError) as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            connection.send_bytes(json.dumps(answer).encode())


def _end_with(life: Connection) -> None:
    """End this process when its parent has ended, however that did: nobody else holds the other end of `life`.

    The parent's id would not do: a worker is forked from a server, which lives as long as any worker.
    """
    with suppress(EOFError, OSError):
        life.recv_bytes()
    os._exit(1)
