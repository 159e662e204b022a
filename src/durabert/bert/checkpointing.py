"""When checkpoints are made, and how: written by a thread from a copy, so that the loop does not wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

from durabert.bert.background import yield_to_others
from durabert.bert.checkpoint import StateCopier, StateCopy, files_of
from durabert.bert.curve import Point, to_parquet
from durabert.bert.steps import TrainState
from durabert.bert.tensor_files import shapes_of
from durabert.errors import StoreUnavailable
from durabert.specs.durability import CURVE_FILE

SHARE: Final = 0.0025
"""Of the time, for checkpoints: a quarter of what durability may cost at all."""
LONGEST_INTERVAL: Final = 60.0
"""Seconds between two checkpoints at most: what a crash may cost."""
SHORTEST_INTERVAL: Final = 1.0
GUESSED_BYTES_PER_SECOND: Final = 400e6
"""Copied, hashed and written, before it was measured; a slow disk."""
FIRST_PAUSE: Final = 1.0
"""Seconds after which a store that did not answer is tried again; doubled each time."""
LONGEST_PAUSE: Final = 10.0
PATIENCE: Final = 600.0
"""Seconds that a training which has nothing else to do waits for the store."""


File = tuple[str, memoryview | None]
"""Name and content."""


class Sink(Protocol):
    """Where checkpoints go."""

    def commit(self, *, step: int, best_epoch: int | None, files: Iterable[File]) -> object:
        """Write a checkpoint, whole or not at all; a file without content is that of the one before.

        Raises:
            StoreUnavailable: the store does not answer.
        """


@dataclass(frozen=True)
class Checkpoints:
    """What a training needs to go on from a checkpoint and to make others."""

    sink: Sink
    every_steps: int | None = None
    """Steps between two; none: by their cost."""
    files: dict[str, bytes] | None = None
    """Of the state to go on from; emptied when it is loaded."""
    from_parent: bool = False
    """Whether that state is another run's, which this one must have something to add to."""
    on_commit: Callable[[int], None] = lambda _: None
    """Called with the step of each checkpoint, in the writing thread."""
    on_trouble: Callable[[str | None], None] = lambda _: None
    """Called with what is wrong with the store, and with None when it is well again."""


class CheckpointWriter:
    """Makes the checkpoints of one attempt; used by the training thread alone."""

    def __init__(
        self, checkpoints: Checkpoints, start: TrainState, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._to = checkpoints
        self._clock = clock
        self._copier = StateCopier()
        self._beside_training = ThreadPoolExecutor(
            1, thread_name_prefix="checkpoint", initializer=yield_to_others
        )
        self._after_training = ThreadPoolExecutor(1, thread_name_prefix="last-checkpoint")
        self._prepared = self._prepare(start)
        self._copy: StateCopy | None = None
        self._writing: Future[float] | None = None
        self._points: list[Point] = []
        self._written_best: int | None = None
        """Best epoch of the checkpoint that was committed last."""
        self._cost: float | None = None
        self._last = clock()
        self._pause = 0.0
        self._standstill = 0.0
        # What it starts from needs no checkpoint: it is one, or it is the beginning.
        self._committed = None if checkpoints.from_parent else _place(start.step, start.history)
        self.seconds = 0.0
        """That the training stood still for checkpoints so far."""

    def after_step(self, state: TrainState, point: Point) -> None:
        """Take a point of the curve, and begin a checkpoint if it is time.

        Raises:
            AttemptSuperseded: a later attempt has taken over.
        """
        self._points.append(point)
        self._collect(wait=False)
        if self._is_due(state):
            self._collect(wait=self._to.every_steps is not None)
            if self._writing is None:
                self._begin(state, self._beside_training)

    def save(self, state: TrainState) -> None:
        """Make a checkpoint of this very state and wait until it is committed.

        Raises:
            AttemptSuperseded: a later attempt has taken over.
            StoreUnavailable: the store does not answer.
        """
        began = self._clock()
        self._collect(wait=True)
        if state.step and self._committed != _place(state.step, state.history):
            self._begin(state, self._after_training)
            trouble = self._collect(wait=True)
            if trouble is not None:
                raise trouble
        self.seconds += self._clock() - began

    def begin_last(self, state: TrainState) -> None:
        """Begin a checkpoint of this very state, which may change from then on; ``settle`` sees to its end.

        Raises:
            AttemptSuperseded: a later attempt has taken over.
        """
        began = self._clock()
        self._collect(wait=True)
        self.seconds += self._clock() - began
        if self._committed != _place(state.step, state.history):
            self._begin(state, self._after_training)

    def settle(self, *, wait: Callable[[float], None]) -> None:
        """Wait until the checkpoint that was begun last is committed, however often the store must be asked.

        Args:
            wait: called with the seconds to let pass between two tries; may raise.

        Raises:
            AttemptSuperseded: a later attempt has taken over.
            StoreUnavailable: the store did not answer for ten minutes.
        """
        began = self._clock()
        while (trouble := self._collect(wait=True)) is not None:
            if self._clock() > began + PATIENCE:
                raise trouble
            wait(self._pause)
            self._submit(self._after_training)
        self.seconds += self._clock() - began

    def close(self) -> None:
        """Let a checkpoint that is being written come to its end, whatever that is."""
        for thread in (self._beside_training, self._after_training):
            thread.shutdown(wait=True, cancel_futures=True)

    def _is_due(self, state: TrainState) -> bool:
        if self._pause:
            return self._clock() - self._last >= self._pause
        if self._to.every_steps is not None:
            return state.step % self._to.every_steps == 0
        return self._clock() - self._last >= self._interval(state)

    def _interval(self, state: TrainState) -> float:
        cost = self._cost
        if cost is None:
            weights = sum(parameter.numel() * 4 for parameter in state.model.parameters())
            # Weights and two moments.
            cost = self._cost = 3 * weights / GUESSED_BYTES_PER_SECOND
        return min(LONGEST_INTERVAL, max(SHORTEST_INTERVAL, cost / SHARE))

    def _begin(self, state: TrainState, thread: ThreadPoolExecutor) -> None:
        began = self._clock()
        self._prepared.result()
        self._copy = self._copier.copy(state)
        self._last = self._clock()
        self._standstill = self._last - began
        self.seconds += self._standstill
        self._submit(thread)

    def _prepare(self, start: TrainState) -> Future[None]:
        # Looked at here: training changes the state while the thread makes the memory.
        shapes = shapes_of(start.model.state_dict())
        learning = [name for name, one in start.model.named_parameters() if one.requires_grad]
        return self._beside_training.submit(self._copier.prepare, shapes, learning)

    def _submit(self, thread: ThreadPoolExecutor) -> None:
        assert self._copy is not None
        self._writing = thread.submit(self._write, self._copy, list(self._points))

    def _write(self, copy: StateCopy, points: list[Point]) -> float:
        began = time.thread_time()
        files = _files(copy, points, known_best=self._written_best)
        self._to.sink.commit(step=copy.step, best_epoch=copy.best_epoch, files=files)
        self._written_best = copy.best_epoch
        self._committed = _place(copy.step, copy.document["history"])
        self._to.on_commit(copy.step)
        # Threads of the model wait for the one whose core this took.
        return time.thread_time() - began

    def _collect(self, *, wait: bool) -> StoreUnavailable | None:
        """Take note of how the writing ended; return what was wrong with the store."""
        if self._writing is None or not (wait or self._writing.done()):
            return None
        writing, self._writing = self._writing, None
        try:
            self._cost = self._standstill + writing.result()
        except StoreUnavailable as trouble:
            self._pause = min(LONGEST_PAUSE, max(FIRST_PAUSE, 2 * self._pause))
            self._to.on_trouble(str(trouble))
            return trouble
        if self._pause:
            self._pause = 0.0
            self._to.on_trouble(None)
        assert self._committed is not None
        self._points = [point for point in self._points if point.step > self._committed[0]]
        return None


def _files(copy: StateCopy, points: list[Point], *, known_best: int | None) -> Iterator[File]:
    yield CURVE_FILE, memoryview(to_parquet(points))
    if known := copy.best_epoch == known_best:
        yield from ((name, None) for name, _ in copy.best)
    yield from files_of(copy, with_best=not known)


def _place(step: int, history: Sized) -> tuple[int, int]:
    # After the last step of an epoch the state changes once more, by its validation.
    return step, len(history)


def waiting(stop: Callable[[], None]) -> Callable[[float], None]:
    """Return a way to let seconds pass that calls ``stop``, which may raise, ten times a second."""
    never = threading.Event()

    def wait(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            stop()
            never.wait(0.1)

    return wait
