"""One job in one child process, watched: no Temporal, and no torch on this side."""

from durabert.supervisor.child import Channel
from durabert.supervisor.launcher import prepare, shut_down
from durabert.supervisor.parent import supervise
from durabert.supervisor.protocol import Event, Job

__all__ = ["Channel", "Event", "Job", "prepare", "shut_down", "supervise"]
