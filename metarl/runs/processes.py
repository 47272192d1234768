"""Several processes that train one run, started by PyTorch's launcher: by `launch`, or by torchrun."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from metarl.common.cores import num_launched
from metarl.common.errors import Abandoned, Fault, Terminated, UserError
from metarl.common.group import Group
from metarl.common.output import say
from metarl.common.signals import handlers_kept
from metarl.config.config import Config

# How long a process waits for the others, whose environments may be slow.
_PATIENCE = timedelta(hours=2)
# Exit codes of a process that ends because another one has: it noticed, or the launcher has sent SIGTERM.
_ABANDONED = 75
_BECAUSE_OF_ANOTHER = (_ABANDONED, 128 + signal.SIGTERM, -signal.SIGTERM)


@contextmanager
def joined() -> Iterator[Group]:
    """The group that this process belongs to; a process that the launcher has not started is alone."""
    if not num_launched():
        yield Group()
        return
    dist.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield Group()
    finally:
        dist.destroy_process_group()


def launch(train: Callable[[Config, Any], object], config: Config, callback: Any = None) -> None:
    """Trains a run with its ``processes`` on this machine; returns when it is finished.

    Args:
        train: What each process calls, with the settings and the callback; the function of a module.
        config: The settings.
        callback: As of `metarl.train`.

    Raises:
        UserError: If the callback cannot be pickled.
        Fault: If one of the processes fails. It has printed why; the others have ended.
        KeyboardInterrupt: After Ctrl-C; each process has ended.
        Terminated: After SIGTERM; each process has ended.
    """
    try:
        pickle.dumps(callback)
    except Exception as error:
        raise UserError(
            f"callback cannot be sent to other processes ({error}); take a function or an object of a class that a "
            "module defines, not a lambda or a local function."
        ) from error
    number = config.resolve().run.processes
    with tempfile.TemporaryDirectory() as folder, _quiet_launcher(), handlers_kept():
        launcher = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=number,
            logs_specs=DefaultLogsSpecs(folder),  # Otherwise it leaves a folder of its own behind.
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            monitor_interval=0.2,
            start_method="spawn",
        )
        raised = Path(folder) / "raised"
        watched = None if callback is None else _Watched(callback, raised)
        try:
            elastic_launch(launcher, _work)(train, config, watched)
        except ChildFailedError as error:
            if raised.exists():
                raise pickle.loads(raised.read_bytes()) from None
            raise _named(error, number) from None
        except SignalException as error:
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise Terminated(128 + error.sigval) from None


class _Watched:
    """A callback that writes what it raises into a file, for the process that has launched the others."""

    def __init__(self, callback: Any, path: Path) -> None:
        self._callback, self._path = callback, path

    def __call__(self, *arguments: Any) -> Any:
        try:
            return self._callback(*arguments)
        except BaseException as error:
            with suppress(Exception):  # What cannot be sent is printed all the same.
                content = pickle.dumps(error)
                pickle.loads(content)
                self._path.write_bytes(content)
            raise


@contextmanager
def _quiet_launcher() -> Iterator[None]:
    """PyTorch's reports of failures are pages long. The processes have said in their own words what went wrong."""
    logger = logging.getLogger("torch.distributed.elastic")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _named(error: ChildFailedError, number: int) -> Fault:
    """Says which process has failed, unless all have ended because of another."""
    own = {rank: failure for rank, failure in error.failures.items() if failure.exitcode not in _BECAUSE_OF_ANOTHER}
    if not own:
        return Fault(f"one of {number} processes has ended early, without an error; the others have ended, too.")
    rank, failure = min(own.items(), key=lambda item: item[1].timestamp)
    killed = f"was killed by {failure.signal_name()}" if failure.exitcode < 0 else "has failed"
    return Fault(f"process {rank} of {number} {killed}; the others have ended, too.")


def _work(train: Callable[[Config, Any], object], config: Config, callback: Any) -> None:
    """One of the processes."""
    try:
        train(config, callback)
    except Abandoned:
        # The launcher names the process that it sees end first, and ends the others: let that be the one that failed.
        time.sleep(10)
        sys.exit(_ABANDONED)
    except UserError as error:
        say(f"error: {error}")
        sys.exit(1)
    except Exception:
        say(f"process {os.environ['RANK']}: {traceback.format_exc()}")
        sys.exit(1)
