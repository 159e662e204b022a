"""What the supervisor's tests run in child processes."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

from durabert import errors


class OwnError(errors.DataInvalid):
    """Known to the child only."""


class OutOfMemoryError(RuntimeError):
    """Named as torch names its own."""


def echo(request, channel):
    return {"request": request, "pid": os.getpid(), "num_fds": len(list(Path("/dev/fd").iterdir()))}


def count(request, channel):
    for step in range(request["steps"]):
        channel.report("progress", {"step": step})
    return {}


def large(request, channel):
    channel.report("large", {"text": "x" * request["size"]})
    return {"text": "y" * request["size"], "received": len(request["text"])}


def large_memory(request, channel):
    held = ctypes.create_string_buffer(64 * 2**20)
    where, flags = False, []
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *values = line.split()
        if "-" in name:
            begin, end = (int(address, 16) for address in name.split("-"))
            where = begin <= ctypes.addressof(held) < end
        elif where and name == "VmFlags:":
            flags = values
    assert flags
    return {"asks_for_huge_pages": "hg" in flags}


def threads(request, channel):
    def report(letter):
        for _ in range(request["each"]):
            channel.report("text", {"text": letter * request["size"]})

    workers = [threading.Thread(target=report, args=["abcdefgh"[number]]) for number in range(request["num"])]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return {}


def noisy(request, channel):
    print('{"done": {"forged": true}}')
    os.write(1, b'{"event": "forged", "body": {}}\n\x00\xff\n')
    os.write(2, b"warning: something\n")
    return {"forged": False}


def fail(request, channel):
    raise EXCEPTIONS[request["how"]]


EXCEPTIONS = {
    "column": errors.ColumnMissing("txt", path="a.csv", columns=["text", "label"]),
    "own": OwnError("row 3 is broken"),
    "diverged": errors.TrainingDiverged("the loss is nan at step 4"),
    "bug": TypeError("unsupported operand"),
    "exit": SystemExit(3),
    "memory": MemoryError("no more"),
    "torch memory": OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    "cpu allocator": RuntimeError(
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    ),
    "device": RuntimeError("CUDA error: an illegal memory access was encountered"),
    "assert": RuntimeError("CUDA error: device-side assert triggered"),
    "disk full": OSError(28, "No space left on device"),
    "connection": ConnectionRefusedError(111, "Connection refused"),
    "permission": PermissionError(13, "Permission denied"),
}


def unserializable(request, channel):
    return {"value": object()}


def die_by_signal(request, channel):
    os.write(2, request.get("words", "").encode())
    if request["signal"] == "SIGSEGV":
        ctypes.string_at(0)
    os.kill(os.getpid(), signal.Signals[request["signal"]])
    time.sleep(60)


def leave_at_once(request, channel):
    print("the last words")
    sys.stdout.flush()
    os._exit(5)


def until_file(request, channel):
    channel.report("running", about_process())
    while not Path(request["file"]).exists():
        time.sleep(0.002)
    return about_process()


def about_process():
    return {
        "device": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "variable": os.environ.get("SUPERVISED"),
        "directory": str(Path.cwd()),
        "server": os.getppid(),
        "num_threads_set": os.environ.get("OMP_NUM_THREADS"),
    }


def polite(request, channel):
    """Leave when asked, but only after a checkpoint and when the test allows it."""
    channel.report("running", about_process())
    while not channel.stop_requested():
        time.sleep(0.002)
    channel.report("checkpoint", {"step": 7})
    while "file" in request and not Path(request["file"]).exists():
        time.sleep(0.002)
    raise RuntimeError("stopped")


def deaf(request, channel):
    """Hold the interpreter, so that neither signal handlers nor threads of this process run."""
    channel.report("running", about_process())
    return {"sum": sum(range(10**13))}


def silent(request, channel):
    channel.report("running", about_process())
    time.sleep(60)


def leave_process_behind(request, channel):
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    started = subprocess.Popen(["sleep", "60"])
    return {"pids": [pid, started.pid]}


def terminate_fork(request, channel):
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    os.kill(pid, signal.SIGTERM)
    return {"signal": os.WTERMSIG(os.waitpid(pid, 0)[1])}


def modules(request, channel):
    at_start = sorted(set(request["modules"]) & set(sys.modules))
    if "torch" not in at_start:
        return {"at_start": at_start}
    import torch

    return {"at_start": at_start, "cuda": torch.cuda.is_initialized(), "sum": torch.ones(3).sum().item()}


def garbage(request, channel):
    class Node:
        pass

    node = Node()
    node.itself = node
    watched = weakref.ref(node)
    del node
    kept = [[] for _ in range(1_000_000)]
    return {"collected": watched() is None and len(kept) == 1_000_000}


def oom_score(request, channel):
    return {"score": int(Path("/proc/self/oom_score_adj").read_text())}
