"""One job in several processes: a child of the supervisor that starts and watches them by torch's launcher.

The child that the worker knows trains nothing: it is the launcher's agent. Each rank is forked from it,
before any device was touched, and stays in its process group, which the fork server kills as a whole. Agent
and rank hold a line, a socket on which the rank speaks the supervisor's protocol; what rank 0 reports goes
on to the worker. The line ends the one whose other end is gone: a rank without an agent leaves, and when a
rank fails or dies, the agent hangs up on the others. A rank that is hung up on leaves with exit code 0, so
that the launcher names the one that broke.

SIGTERM is passed on to rank 0, which commits its last step and ends with that. The others need not agree to
it: they wait for rank 0 to begin the next step until the agent hangs up.

The launcher's own rendezvous is a file, as its store of TCP would listen on every interface and unpickle
what it is sent.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any, Final, NoReturn

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from durabert.activities.rank_lines import RankLines
from durabert.errors import DurabertError, OutOfMemory, ProcessKilled, UnexpectedError
from durabert.supervisor import Channel
from durabert.supervisor.child import tell_failure
from durabert.supervisor.failure import num_memory_kills
from durabert.supervisor.forkserver import ON_LINUX, die_with_parent

LINE: Final = "line"
LAUNCH: Final = "launch"
GROUP: Final = "group"
"""Files of a meeting: the socket, and the stores of the launcher and of the ranks."""
POLL_SECONDS: Final = 0.05
_ENVIRONMENT: Final = {
    # Whether there is a GPU is asked of its driver's library: CUDA does not survive a fork.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    # Opens a port, and the ranks have a store of their own.
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
}


def run_ranks(entry: str, payload: dict[str, Any], channel: Channel, *, size: int, meeting: Path) -> Any:
    """Run a function in each of several processes, and return what rank 0 returned; all are gone then.

    Args:
        entry: ``package.module:function``, called as ``function(payload, channel, rank)``.
        payload: what JSON can hold.
        channel: to the worker.
        size: number of ranks.
        meeting: an empty directory with a short path.

    Raises:
        DurabertError: what a rank raised, rank 0 first; or how one died.
    """
    os.environ.update(_ENVIRONMENT)
    kills = num_memory_kills()
    # The launcher logs a traceback of its own for whatever ends a rank; the ranks log again.
    logging.disable(logging.CRITICAL)
    with RankLines(meeting / LINE, channel) as lines:
        try:
            results = elastic_launch(_launch_config(size, meeting), _live)(entry, payload, str(meeting))
        except ChildFailedError as failed:
            rank, failure = failed.get_first_failure()
            raise lines.failure() or _death(rank, failure, size=size, kills=kills) from None
    return results[0]


def _launch_config(size: int, meeting: Path) -> LaunchConfig:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=size,
        run_id="durabert",
        rdzv_backend="c10d",
        rdzv_endpoint=str(meeting / LAUNCH),
        rdzv_configs={"store_type": "file"},
        local_addr="127.0.0.1",
        max_restarts=0,
        monitor_interval=POLL_SECONDS,
        start_method="fork" if ON_LINUX else "spawn",
        # Each rank writes where the agent does.
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
        # SIGTERM stays what it is for the supervisor's children: a request.
        signals_to_handle="SIGHUP",
        # Each rank sees one GPU.
        virtual_local_rank=len(visible) == size,
    )


def _death(rank: int, failure: ProcessFailure, *, size: int, kills: int) -> DurabertError:
    name = f"rank {rank} of {size}"
    if failure.exitcode >= 0:
        return UnexpectedError(f"{name} ended without a result, exit code {failure.exitcode}")
    if failure.exitcode == -signal.SIGKILL and num_memory_kills() > kills:
        return OutOfMemory(f"the kernel killed {name} because the machine had too little memory")
    return ProcessKilled(f"{name} was killed by {failure.signal_name()}")


def _live(entry: str, payload: dict[str, Any], meeting: str) -> Any:
    """Be a rank, to its end."""
    die_with_parent()
    logging.disable(logging.NOTSET)
    line = socket.socket(socket.AF_UNIX)
    line.connect(str(Path(meeting) / LINE))
    channel = Channel(line, hang_up=_leave)
    channel.obey_signals()
    channel.follow_parent()
    rank = int(os.environ["RANK"])
    channel.send({"rank": rank, "pid": os.getpid()})
    module, _, name = entry.partition(":")
    try:
        result = getattr(importlib.import_module(module), name)(payload, channel, rank)
    except BaseException as error:
        # Whatever it is, it is the end of this process.
        tell_failure(error, channel)
        sys.exit(1)
    channel.send({"finished": rank})
    return result


def _leave() -> NoReturn:
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(0)
