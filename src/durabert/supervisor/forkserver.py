"""The fork server: a process that has the heavy modules imported and forks a child for each job.

Why not the fork server of ``multiprocessing``: it imports the parent's main module again in each child, which
breaks notebooks and scripts without a ``__main__`` guard; it pickles what it is given; it starts a resource
tracker besides; its list of preloaded modules is one for the whole process; and it does not say when it dies.
What is needed here is less: receive descriptors and a job, fork, tell the exit status. No main module is
imported, no thread is held, nothing about threads is set.

A child never outlives its worker, by three ways that do not need each other: this server kills the children's
process groups when its connection to the worker ends; each child watches its own line to the worker; and on
Linux each child dies with this server (``PR_SET_PDEATHSIG``).

On macOS a fork without exec may not touch the system's frameworks (Metal), so each child there is a new
interpreter: slower to start, otherwise the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import selectors
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

from durabert.supervisor.child import live, read_spec
from durabert.supervisor.protocol import encoded

PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36
ON_LINUX: Final = sys.platform == "linux"
OOM_SCORE: Final = b"500"
"""A child's. Out of memory, the kernel shall take the child before the worker."""


class ForkServer:
    """Serves one worker, until the worker closes the connection or dies."""

    def __init__(self, requests: socket.socket, *, fresh_interpreter: bool) -> None:
        self._requests = requests
        self._fresh_interpreter = fresh_interpreter
        self._statuses: dict[int, int] = {}
        self._exits: dict[int, int] = {}
        """Of children that have ended, while others of their group have not."""
        self._waking, self._woken = socket.socketpair()
        self._selector = selectors.DefaultSelector()

    def serve(self) -> None:
        """Fork and reap until the worker is gone."""
        self._watch_children()
        self._selector.register(self._requests, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        connected = True
        while connected:
            ready = {key.fileobj for key, _ in self._selector.select()}
            if self._woken in ready:
                self._woken.recv(4096)
                self._reap()
            if self._requests in ready:
                connected = self._accept()
        self._end_children()
        self._leave()

    def _watch_children(self) -> None:
        self._waking.setblocking(False)
        self._woken.setblocking(False)
        signal.set_wakeup_fd(self._waking.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def _accept(self) -> bool:
        try:
            request, descriptors, *_ = socket.recv_fds(self._requests, 1, 3)
        except ConnectionError:
            return False
        if not request:
            return False
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        if len(descriptors) == 1:
            _preload(descriptors[0])
        else:
            self._start(*descriptors)
        return True

    def _start(self, spec: int, line: int, status: int) -> None:
        # The parent writes nothing on the line: readable means that it hung up already.
        if select.select([line], [], [], 0)[0]:
            _tell(status, {"refused": "the job was cancelled before it began"})
            os.close(status)
        else:
            self._fork(spec, line, status)
        os.close(spec)
        os.close(line)

    def _fork(self, spec: int, line: int, status: int) -> None:
        server = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            _tell(status, {"refused": f"no process could be started: {error.strerror}"})
            os.close(status)
            return
        if pid == 0:
            self._become_child(spec, line, status, server=server)
        self._statuses[pid] = status
        _tell(status, {"pid": pid})

    def _become_child(self, spec: int, line: int, status: int, *, server: int) -> NoReturn:
        try:
            os.close(status)
            self._leave()
            _bind_to(server)
            if self._fresh_interpreter:
                _live_in_fresh_interpreter(line, spec)
            live(line, spec)
        except BaseException:
            # No way leads back into the server's loop.
            traceback.print_exc()
        finally:
            os._exit(70)

    def _leave(self) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._selector.close()
        for connection in (self._requests, self._waking, self._woken):
            connection.close()
        for status in self._statuses.values():
            os.close(status)

    def _reap(self, flags: int = os.WNOHANG) -> None:
        for pid in list(self._statuses):
            if pid not in self._exits:
                ended, exit_status = os.waitpid(pid, flags)
                if not ended:
                    continue
                # What the child started ends with it.
                kill_group(pid)
                self._exits[pid] = exit_status
            if _is_gone(pid, flags):
                status = self._statuses.pop(pid)
                _tell(status, {"exit": self._exits.pop(pid)})
                os.close(status)

    def _end_children(self) -> None:
        for pid in self._statuses:
            os.kill(pid, signal.SIGKILL)
            kill_group(pid)
        self._reap(flags=0)


def serve(requests: int, fresh_interpreter: bool) -> None:
    """Be the fork server of the worker at the other end of the socket ``requests``."""
    # A service manager signals each process of a service. This one stays for as long as the worker lets its
    # children finish. A child unblocks SIGTERM when it can heed it, so that none is lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Python counts the idle thread pools of numeric libraries, which mind forks by themselves.
    warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
    if ON_LINUX:
        # What a child leaves behind becomes a child of this process, which can then see it end.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    ForkServer(socket.socket(fileno=requests), fresh_interpreter=fresh_interpreter).serve()


def interpreter_command(function: Callable[..., object], **arguments: Any) -> list[str]:
    """Return the command of a new interpreter that imports as this one does and calls ``function``."""
    code = (
        "import json, sys; sys.path[:], arguments = json.loads(sys.argv.pop()); "
        f"from {function.__module__} import {function.__name__} as call; call(**arguments)"
    )
    return [sys.executable, "-P", "-c", code, json.dumps([sys.path, arguments])]


def kill_group(leader: int) -> None:
    """Kill what is left of the process group of a child."""
    # PermissionError: macOS says so of a group in which only zombies are left.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _is_gone(group: int, flags: int) -> bool:
    """Reap what is left of the process group of a child that has ended; return whether nothing is."""
    try:
        while os.waitpid(-group, flags)[0]:
            pass
    except ChildProcessError:
        return True
    return False


def _preload(spec_fd: int) -> None:
    # What is imported stays, and looking through it for garbage again and again takes a quarter of the time.
    gc.disable()
    for module in read_spec(spec_fd)["preload"]:
        try:
            importlib.import_module(module)
        except Exception:
            # A job that needs the module tells its user.
            traceback.print_exc()
    # Objects that live until the end shall not be touched, hence not be copied, by the children's collector.
    gc.freeze()
    gc.enable()


def die_with_parent() -> None:
    """Let the kernel kill this process when the thread that started it is gone; on Linux alone."""
    if ON_LINUX:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _bind_to(server: int) -> None:
    os.setsid()
    die_with_parent()
    if ON_LINUX:
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_bytes(OOM_SCORE)
    if os.getppid() != server:
        os._exit(1)


def _live_in_fresh_interpreter(line: int, spec: int) -> NoReturn:
    os.set_inheritable(line, True)
    os.set_inheritable(spec, True)
    command = interpreter_command(live, line_fd=line, spec_fd=spec)
    os.execv(command[0], command)  # noqa: S606  (no shell is wanted)


def _tell(status: int, message: dict[str, Any]) -> None:
    # A parent that went away is noticed on the connection that all jobs share.
    with contextlib.suppress(BrokenPipeError):
        os.write(status, encoded(message))
