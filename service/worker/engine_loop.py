"""The engine at work: one job after the other, as `protocol` says, until the supervisor is gone.

The learngenes are held on the device. Under torchrun the first process speaks for all, and hands every order on to the others.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import time
from pathlib import Path
from typing import NoReturn

import torch
from pydantic import BaseModel, TypeAdapter
from torch import distributed

from service.logs import configure_logging
from service.storage.object_store import ObjectStore
from service.worker.connection import Connection
from service.worker.protocol import RUN, Failed, Ready, Setup
from service.worker.rehearsal import rehearse
from service.worker.training import FIRST_WORD_S, train
from service.worker.workbench import Workbench, choose_device
from tleg_core.errors import ConfigError, TlegError
from tleg_core.training.loop import Wish
from tleg_core.training.processes import Processes

logger = logging.getLogger(__name__)

_SETUP: TypeAdapter[Setup] = TypeAdapter(Setup)


def run(socket: Path) -> None:
    """Work for the supervisor that listens on `socket` until it is gone."""
    configure_logging("info")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the supervisor's to act on
    grouped = distributed.is_torchelastic_launched()
    if not grouped:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # likewise; torchrun, though, ends its processes by it
    else:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend)
    processes = Processes()
    connection = Connection(socket, gone_status=int(grouped)) if processes.first else None
    try:
        _work(connection, processes)
    except TlegError as error:
        logger.error("the engine cannot start: %s", error, extra={"action": "engine_unusable"})
        os._exit(1)
    except RuntimeError:
        logger.exception("the engine ends", extra={"action": "engine_broken"})
        os._exit(1)


def _work(connection: Connection | None, processes: Processes) -> None:
    setup = _SETUP.validate_json(processes.told(connection.setup().model_dump_json() if connection else ""))
    try:
        device = choose_device(setup.device, processes.rank, processes.count)
    except ConfigError as error:
        if processes.count == 1:
            raise
        _refuse(connection, processes, str(error))
    bench = Workbench(
        [Path(path) for path in setup.learngenes],
        ObjectStore(setup.store_url),
        device=device,
        work_dir=Path(setup.work_dir),
        processes=processes,
    )
    rehearse(bench)
    gc.collect()
    gc.freeze()  # a collection after a job then takes no third of a second over what PyTorch has loaded
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    _say(connection, Ready(device=name))
    while True:
        order = RUN.validate_json(processes.told(connection.next_run().model_dump_json() if connection else ""))
        train(
            order,
            bench,
            lambda report: _say(connection, report),
            lambda: Wish.GO_ON if connection is None else connection.wish(order.job),  # noqa: B023 (called within the turn)
        )


def _refuse(connection: Connection | None, processes: Processes, reason: str) -> NoReturn:
    """Answer a job that these processes cannot do; all of them come to the same conclusion."""
    _say(connection, Ready(device="none"))
    order = RUN.validate_json(processes.told(connection.next_run().model_dump_json() if connection else ""))
    _say(connection, Failed(job=order.job, code="invalid_settings", message=reason))
    if connection is None:
        time.sleep(FIRST_WORD_S)
    os._exit(1)


def _say(connection: Connection | None, report: BaseModel) -> None:
    if connection is not None:
        connection.report(report)
