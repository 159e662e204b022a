"""Where the time of a training went."""

from __future__ import annotations

from durabert.specs.base import Wire


class TrainingProfile(Wire):
    """Speed, use of the machine, and the parts of the time of one attempt's training steps.

    Shares are of the seconds of all steps and of the standstill for checkpoints; what is left is the loop's
    own. On a GPU the three of the model are none: it works while the program is ahead of it.
    """

    tokens_per_second: float
    """Tokens a second, without padding."""
    model_gflops: float
    """Products of the model, forward and backward without padding, in 10^9 operations a second."""
    peak_gflops: float
    """The same of one large square product on this machine, in the precision of the training."""
    flop_utilisation: float
    """The first over the second, 0 to 1."""
    data_share: float
    """Of the time, waiting for batches, 0 to 1."""
    forward_share: float | None = None
    """Of the time, in forward passes."""
    backward_share: float | None = None
    """Of the time, in backward passes."""
    optimizer_share: float | None = None
    """Of the time, in the norm of the gradient and the step of the optimizer."""
    checkpoint_share: float = 0.0
    """Of the time, standing still for checkpoints."""
