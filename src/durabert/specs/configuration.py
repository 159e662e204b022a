"""One configuration of a training: base model, optimization, limits."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from durabert.specs.base import ConfigurationName, Device, Task, Wire

LOWER_IS_BETTER = frozenset({"loss", "mse", "mae"})
"""Metrics of which less is better."""


class FineTuneConfig(Wire):
    """One configuration: base model, optimization, limits. The defaults give a good model."""

    name: ConfigurationName | None = None
    """Name of the configuration inside its experiment; default: its number from 1."""
    model: str = Field(default="minilm", min_length=1)
    """``minilm`` (offline), a directory with safetensors weights, or a hub id such as ``roberta-base``."""
    task: Literal["auto"] | Task = "auto"
    """What the labels mean; default: inferred from the label column."""
    epochs: int = Field(default=3, ge=1, le=1000)
    """Passes over the training rows."""
    batch_size: int = Field(default=16, ge=1, le=4096)
    """Examples per optimizer step, over all micro-batches."""
    gradient_accumulation: int = Field(default=1, ge=1, le=4096)
    """Micro-batches that a batch is computed in, one after the other; the result is the same."""
    learning_rate: float = Field(default=5e-5, gt=0, le=1, allow_inf_nan=False)
    """Peak learning rate of AdamW."""
    weight_decay: float = Field(default=0.01, ge=0, le=1, allow_inf_nan=False)
    """Decoupled weight decay; biases and layer norms are exempt."""
    warmup_ratio: float = Field(default=0.06, ge=0, le=1, allow_inf_nan=False)
    """Share of all steps in which the learning rate rises from 0 to its peak."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after the warm-up."""
    clip_norm: float | None = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Largest allowed global L2 norm of the gradient; none: no clipping."""
    max_length: int = Field(default=128, ge=4, le=32768)
    """Longest input in tokens; longer texts are truncated."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Compute precision; ``auto`` is bf16 where the hardware has it, else fp32. Weights stay fp32."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, allow_inf_nan=False)
    """Probability mass spread over all classes; classification only."""
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    """Weight of each label in the loss; ``balanced`` is inverse to its frequency."""
    early_stopping_patience: int | None = Field(default=None, ge=1)
    """Epochs without improvement after which training stops; none: never."""
    best_metric: Literal[
        "auto", "loss", "accuracy", "f1_macro", "f1_micro", "mcc", "pearson", "spearman", "mse"
    ] = "auto"
    """Validation metric that picks the best epoch; ``auto``: accuracy, f1_micro or pearson by task."""
    max_train_rows: int | None = Field(default=None, ge=1)
    """Train on a seeded sample of at most this many rows."""
    max_eval_rows: int | None = Field(default=None, ge=1)
    """Validate on a seeded sample of at most this many rows."""
    seed: int = Field(default=42, ge=0, le=2**32 - 1)
    """Seed of the new head, the order of the rows, and dropout."""
    device: Device = "auto"
    """``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:N``."""
    num_processes: Literal["auto"] | Annotated[int, Field(ge=1, le=64)] = 1
    """Processes of one machine that share each batch, one a GPU or on the CPU; ``auto``: one for each GPU."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.gradient_accumulation > self.batch_size:
            raise ValueError(
                f"gradient_accumulation is {self.gradient_accumulation}, but should be at most "
                f"batch_size, {self.batch_size}"
            )
        self._check_processes()
        if isinstance(self.class_weights, dict):
            for label, weight in self.class_weights.items():
                if not 0 < weight < float("inf"):
                    raise ValueError(f"class_weights[{label!r}] is {weight}, but should be a positive number")
        return self

    def _check_processes(self) -> None:
        if self.num_processes == "auto" or self.num_processes == 1:
            return
        if self.num_processes > self.batch_size:
            raise ValueError(
                f"num_processes is {self.num_processes}, but should be at most batch_size, {self.batch_size}"
            )
        if self.device == "mps" or ":" in self.device:
            raise ValueError(
                f"num_processes is {self.num_processes}, but should be 1 on {self.device!r}, "
                "which is one device"
            )
