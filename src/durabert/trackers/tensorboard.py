"""TensorBoard: one directory of event files a run; what they hold is read back, and the rest is added."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from durabert.errors import DependencyMissing, OutputInUse
from durabert.trackers.feed import missing

if TYPE_CHECKING:
    from durabert.trackers.feed import Feed

STATUS_TAG: Final = "durabert/status"
IDENTITY_TAG: Final = "durabert/identity"


class TensorBoard:
    """Event files below a directory.

    Args:
        directory: of all runs; each gets one of its own in it.

    Raises:
        DependencyMissing: the extra ``tensorboard`` is not installed.
    """

    def __init__(self, directory: Path) -> None:
        try:
            import tensorboard  # noqa: F401 - asked for now, not in the middle of the work
        except ImportError:
            raise DependencyMissing("tensorboard", extra="tensorboard") from None
        self._directory = directory
        self._held: dict[str, _Held] = {}

    def sync(self, feed: Feed) -> int:
        """Add what is missing, and how the run ended.

        Raises:
            OutputInUse: the directory cannot be written.
        """
        try:
            return _sync(self._held_of(feed), feed)
        except OSError as error:
            place = self._directory / feed.run
            raise OutputInUse(f"output {str(place)!r} cannot be written: {error.strerror}") from None

    def close(self) -> None:
        """Do nothing: every call closes its file."""

    def _held_of(self, feed: Feed) -> _Held:
        held = self._held.get(feed.run) or _read(self._directory / feed.run)
        if held.identity and feed.identity and held.identity != feed.identity:
            # The name was used again for another run, whose steps are others.
            held = _read(self._directory / f"{feed.run}@{feed.identity[:8]}")
        self._held[feed.run] = held
        return held


@dataclass
class _Held:
    """What the directory of a run holds."""

    place: Path
    known: dict[str, set[int]] = field(default_factory=dict)
    """Steps of each series."""
    status: str | None = None
    identity: str | None = None


def _sync(held: _Held, feed: Feed) -> int:
    new = {name: missing(values, held.known.get(name, set())) for name, values in feed.series.items()}
    count = sum(len(values) for values in new.values())
    if not count and held.status == feed.status:
        return 0
    held.place.mkdir(parents=True, exist_ok=True)
    _write(held.place, _events(feed, new, held))
    for name, values in new.items():
        held.known.setdefault(name, set()).update(value.step for value in values)
    held.status, held.identity = feed.status, held.identity or feed.identity or None
    return count


def _read(place: Path) -> _Held:
    if not place.is_dir():
        return _Held(place)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # It tells of a file that a killed process left torn, which is what is made good here.
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    found = EventAccumulator(str(place), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    known = {name: {event.step for event in found.Scalars(name)} for name in found.Tags()["scalars"]}
    return _Held(place, known, _told(found, STATUS_TAG), _told(found, IDENTITY_TAG))


def _told(found: Any, tag: str) -> str | None:
    if tag not in found.Tags()["tensors"]:
        return None
    text: bytes = found.Tensors(tag)[-1].tensor_proto.string_val[0]
    return text.decode()


def _write(place: Path, events: Iterator[Any]) -> None:
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(place))
    for event in events:
        writer.add_event(event)
    writer.close()


def _events(feed: Feed, new: Mapping[str, list[Any]], held: _Held) -> Iterator[Any]:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    began = feed.began.timestamp() if feed.began else 0.0
    if held.status is None:
        yield Event(wall_time=began, summary=_session_start(feed, began))
    if feed.identity and held.identity is None:
        yield Event(wall_time=began, summary=_text(IDENTITY_TAG, feed.identity))
    ordered = sorted(
        ((value, name) for name, values in new.items() for value in values), key=lambda one: one[0].step
    )
    for value, name in ordered:
        scalar = Summary.Value(tag=name, simple_value=value.value)
        yield Event(wall_time=value.time.timestamp(), step=value.step, summary=Summary(value=[scalar]))
    if held.status != feed.status:
        heard = feed.heard.timestamp() if feed.heard else began
        yield Event(wall_time=heard, summary=_text(STATUS_TAG, feed.status))
        if feed.ended:
            yield Event(wall_time=heard, summary=_session_end(feed, heard))


def _session_start(feed: Feed, began: float) -> Any:
    from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo

    info = SessionStartInfo(group_name=feed.run, start_time_secs=began)
    for name, value in feed.parameters.items():
        if isinstance(value, bool):
            info.hparams[name].bool_value = value
        elif isinstance(value, int | float):
            info.hparams[name].number_value = value
        else:
            info.hparams[name].string_value = value
    return _session(SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=info))


def _session_end(feed: Feed, heard: float) -> Any:
    from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
    from tensorboard.plugins.hparams.metadata import SESSION_END_INFO_TAG
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

    status = STATUS_SUCCESS if feed.status == "completed" else STATUS_FAILURE
    info = SessionEndInfo(status=status, end_time_secs=heard)
    return _session(SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=info))


def _session(tag: str, content: Any) -> Any:
    # By hand: what TensorBoard has for it wants TensorFlow.
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.plugins.hparams.metadata import PLUGIN_DATA_VERSION, PLUGIN_NAME

    content.version = PLUGIN_DATA_VERSION
    plugin = SummaryMetadata.PluginData(plugin_name=PLUGIN_NAME, content=content.SerializeToString())
    return Summary(value=[Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin))])


def _text(tag: str, text: str) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING

    plugin = SummaryMetadata.PluginData(plugin_name="text")
    tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()])
    return Summary(
        value=[Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin), tensor=tensor)]
    )
