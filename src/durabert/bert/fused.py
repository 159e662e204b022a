"""The encoder layers of BERT and its kin, forward and backward as one operation each.

A layer as Transformers has it is some forty operations each way, most of them small: each goes through the
memory once more, and through the interpreter. Here it is four products each way and twice as many back, and
between them the kernels of ``durabert.bert.kernels`` on a CPU and those of ``durabert.bert.triton_kernels``
on a GPU, which also take the sums that biases have as gradients.

Shape letters: T tokens, F values of a token, B sequences and what fills them up.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch

from durabert.bert import attention_tiles, flash, fused_tiles
from durabert.bert.attention_kernels import LONGEST
from durabert.bert.dropout import Chance, Masks
from durabert.bert.fused_cpu import CpuHow
from durabert.bert.fused_parts import How, Tensors
from durabert.bert.fused_tiles import TilesHow
from durabert.bert.packing import Packing
from durabert.bert.vectors import LANES

LAYERS: Final = ("BertLayer", "RobertaLayer", "ElectraLayer", "XLMRobertaLayer", "CamembertLayer")
"""Classes of Transformers that are such layers, with a norm after attention and after feed-forward."""


def install(model: Any) -> None:
    """Let the layers of a model compute as this module does, where they are of its kind."""
    layers = _layers(model)
    if not layers or model.config.hidden_act != "gelu" or model.config.is_decoder:
        return
    takes_means = getattr(model.config, "classifier_pooling", None) == "mean"
    for number, layer in enumerate(layers):
        first_only = number + 1 == len(layers) and not takes_means
        layer.forward = functools.partial(_forward, layer, _modules(layer), number, first_only)


def projections(model: Any) -> Iterator[tuple[torch.nn.Parameter, ...]]:
    """Yield weights, and biases, that are one product if they lie one after the other."""
    for layer in _layers(model):
        attention = layer.attention.self
        modules = attention.query, attention.key, attention.value
        yield tuple(module.weight for module in modules)
        yield tuple(module.bias for module in modules)


def _layers(model: Any) -> list[Any]:
    return [module for module in model.modules() if type(module).__name__ in LAYERS]


def _forward(
    layer: Any,
    modules: tuple[Any, ...],
    number: int,
    first_only: bool,
    hidden_1TF: torch.Tensor,
    *others: Any,
    packing: Packing | None = None,
    masks: Masks | Chance | None = None,
    **keywords: Any,
) -> torch.Tensor:
    weights = tuple(tensor for module in modules for tensor in (module.weight, module.bias))
    # By views: an index would have its gradient copied into a batch of zeros.
    hidden_TF = hidden_1TF.squeeze(0)
    make = _how(layer, hidden_TF, weights, packing, masks)
    if make is None:
        given = {**keywords, "packing": packing, "masks": masks}
        return type(layer).forward(layer, hidden_1TF, *others, **given)
    how = make(layer, packing, masks, number=number, first_only=first_only)
    run: Any = _Layer.apply if torch.is_grad_enabled() else _without_gradient
    out_TF: torch.Tensor = run(hidden_TF, how, *weights)
    return out_TF.unsqueeze(0)


def _modules(layer: Any) -> tuple[Any, ...]:
    """Return the parts of a layer that have weights."""
    attention = layer.attention
    return (
        attention.self.query, attention.self.key, attention.self.value,
        attention.output.dense, attention.output.LayerNorm,
        layer.intermediate.dense, layer.output.dense, layer.output.LayerNorm,
    )  # fmt: skip


def _how(
    layer: Any,
    hidden_TF: torch.Tensor,
    weights: Tensors,
    packing: Packing | None,
    masks: Masks | Chance | None,
) -> Callable[..., How[Any]] | None:
    """Return what computes a layer; none for Transformers."""
    if packing is None:
        return None
    width = layer.attention.self.attention_head_size
    if isinstance(masks, Chance):
        from durabert.bert.fused_gpu import GpuHow

        return GpuHow if flash.takes(width, weights[0].dtype) else None
    if not isinstance(masks, Masks) or width % LANES:
        return None
    is_small = max(width, packing.sizes[-1]) <= LONGEST
    is_scored = not torch.is_grad_enabled() and not layer.training
    if not is_small and not (is_scored and attention_tiles.takes(width, weights[0].dtype)):
        return None
    return TilesHow if fused_tiles.takes(hidden_TF, weights) else CpuHow


def _pass(
    hidden: torch.Tensor, how: How[Any], weights: Tensors, *, back: bool
) -> tuple[torch.Tensor, Tensors]:
    """Compute a layer; return what comes out, and what the way back needs."""
    return how.forward(hidden, weights, keep=back)


def _without_gradient(hidden: torch.Tensor, how: How[Any], *weights: torch.Tensor) -> torch.Tensor:
    return _pass(hidden, how, weights, back=False)[0]


class _Layer(torch.autograd.Function):
    """A layer as one operation.

    Source:
        Vaswani et al. 2017, section 3.1, with the norm after each sum; Devlin et al. 2019, appendix A.2.
    """

    @staticmethod
    def forward(context: Any, hidden: torch.Tensor, how: How[Any], *weights: torch.Tensor) -> torch.Tensor:
        out, saved = _pass(hidden, how, weights, back=True)
        context.how = how
        context.save_for_backward(*saved)
        return out

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        how: How[Any] = context.how
        d_hidden, *of_weights = how.backward(gradients[0].contiguous(), context.saved_tensors)
        return d_hidden, None, *of_weights
