"""The encoder layers of BERT and its kin, forward and backward as one operation each.

A layer as Transformers has it is some forty operations each way, most of them small: each goes through the
memory once more, and through the interpreter. Here it is four products each way and twice as many back, and
between them the kernels of ``durabert.bert.kernels`` on a CPU and those of ``durabert.bert.triton_kernels``
on a GPU, which also take the sums that biases have as gradients.

Shape letters: T tokens, F values of a token, B sequences and what fills them up.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch

from durabert.bert import attention_tiles, flash
from durabert.bert.attention_kernels import LONGEST
from durabert.bert.dropout import Chance, Masks
from durabert.bert.fused_cpu import CpuHow
from durabert.bert.fused_parts import How
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
        layer.forward = functools.partial(_forward, layer, number, first_only)


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
    number: int,
    first_only: bool,
    hidden_1TF: torch.Tensor,
    *others: Any,
    packing: Packing | None = None,
    masks: Masks | Chance | None = None,
    **keywords: Any,
) -> torch.Tensor:
    make = _how(layer, packing, masks)
    if make is None:
        given = {**keywords, "packing": packing, "masks": masks}
        return type(layer).forward(layer, hidden_1TF, *others, **given)
    how = make(layer, packing, masks, number=number, first_only=first_only)
    run: Any = _Layer.apply if torch.is_grad_enabled() else _without_gradient
    # By views: an index would have its gradient copied into a batch of zeros.
    out_TF: torch.Tensor = run(hidden_1TF.squeeze(0), how, *_weights(layer))
    return out_TF.unsqueeze(0)


def _weights(layer: Any) -> tuple[torch.Tensor, ...]:
    attention = layer.attention
    modules = (
        attention.self.query, attention.self.key, attention.self.value,
        attention.output.dense, attention.output.LayerNorm,
        layer.intermediate.dense, layer.output.dense, layer.output.LayerNorm,
    )  # fmt: skip
    return tuple(tensor for module in modules for tensor in (module.weight, module.bias))


def _how(layer: Any, packing: Packing | None, masks: Masks | Chance | None) -> Callable[..., How[Any]] | None:
    """Return what computes a layer; none for Transformers."""
    if packing is None:
        return None
    width = layer.attention.self.attention_head_size
    if isinstance(masks, Chance):
        from durabert.bert.fused_gpu import GpuHow

        return GpuHow if flash.takes(width, layer.attention.self.query.weight.dtype) else None
    if not isinstance(masks, Masks) or width % LANES:
        return None
    is_small = max(width, packing.sizes[-1]) <= LONGEST
    is_scored = not torch.is_grad_enabled() and not layer.training
    dtype = layer.attention.self.query.weight.dtype
    return CpuHow if is_small or (is_scored and attention_tiles.takes(width, dtype)) else None


@dataclass(frozen=True)
class _Pass:
    """What a layer has computed on its way forward."""

    out: torch.Tensor
    saved: tuple[torch.Tensor, ...]


def _pass(hidden: torch.Tensor, how: How[Any], weights: tuple[torch.Tensor, ...], *, back: bool) -> _Pass:
    """Compute a layer.

    Args:
        hidden: what goes in, (T, F).
        how: what computes it.
        weights: of the layer.
        back: whether the way back follows; if not, memory is free for what comes next as soon as can be.
    """
    qw, qb, kw, kb, vw, vb, ow, ob, scale1, shift1, iw, ib, pw, pb, scale2, shift2 = weights
    projecting = _joined(qw, kw, vw)
    attended, *attention = how.attend(how.linear(hidden, projecting, _joined(qb, kb, vb)), keep=back)
    if not back:
        attention.clear()
    trunk = hidden
    if how.first_B is not None:
        attended, trunk = attended.index_select(0, how.first_B), hidden.index_select(0, how.first_B)
    between, total1, moments1 = how.add_norm(1, how.linear(attended, ow, ob), trunk, scale1, shift1)
    of_gelu, after = how.linear_gelu(between, iw, ib, keep=back)
    out, total2, moments2 = how.add_norm(2, how.linear(after, pw, pb), between, scale2, shift2)
    saved = (
        hidden, projecting, attended, total1, moments1, between, of_gelu, after, total2, moments2, ow, scale1,
        iw, pw, scale2, *attention,
    )  # fmt: skip
    return _Pass(out, saved)


def _joined(*parts: torch.Tensor) -> torch.Tensor:
    """Return the parts as one tensor; a view of them if they lie one after the other."""
    first = parts[0]
    ends = itertools.accumulate((part.nbytes for part in parts), initial=first.data_ptr())
    memory = first.untyped_storage().data_ptr()
    lies_so = (
        part.data_ptr() == place and part.untyped_storage().data_ptr() == memory
        for part, place in zip(parts, ends, strict=False)
    )
    if not all(lies_so):
        return torch.cat(parts)
    return first.as_strided((sum(map(len, parts)), *first.shape[1:]), first.stride())


def _without_gradient(hidden: torch.Tensor, how: How[Any], *weights: torch.Tensor) -> torch.Tensor:
    return _pass(hidden, how, weights, back=False).out


class _Layer(torch.autograd.Function):
    """A layer as one operation.

    Source:
        Vaswani et al. 2017, section 3.1, with the norm after each sum; Devlin et al. 2019, appendix A.2.
    """

    @staticmethod
    def forward(context: Any, hidden: torch.Tensor, how: How[Any], *weights: torch.Tensor) -> torch.Tensor:
        done = _pass(hidden, how, weights, back=True)
        context.how = how
        context.save_for_backward(*done.saved)
        return done.out

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        how: How[Any] = context.how
        (
            hidden, projecting, attended, total1, moments1, between, of_gelu, after, total2, moments2, ow,
            scale1, iw, pw, scale2, *attention,
        ) = context.saved_tensors  # fmt: skip
        trunk, branch, sums2 = how.add_norm_back(2, gradients[0], total2, moments2, scale2)
        d_pw = how.back_weights(branch, after)
        inner = how.back_gelu(branch, pw, of_gelu)
        d_iw, d_ib = how.back_linear(inner, between)
        d_between = how.back(inner, iw, added=trunk)
        trunk, branch, sums1 = how.add_norm_back(1, d_between, total1, moments1, scale1)
        d_ow = how.back_weights(branch, attended)
        d_attended = how.back(branch, ow)
        if how.first_B is not None:
            # Added: what fills up is the first token of some sequence, with a gradient of 0.
            zeros = torch.zeros_like(hidden)
            d_attended = zeros.index_add(0, how.first_B, d_attended)
            trunk = zeros.index_add_(0, how.first_B, trunk)
        d_projected = how.attend_back(d_attended, *attention)
        d_projecting, d_biases = how.back_linear(d_projected, hidden)
        d_hidden = how.back(d_projected, projecting, added=trunk)
        (d_qw, d_kw, d_vw), (d_qb, d_kb, d_vb) = d_projecting.chunk(3), d_biases.chunk(3)
        return (
            d_hidden, None, d_qw, d_qb, d_kw, d_kb, d_vw, d_vb, d_ow, sums1[2], sums1[0], sums1[1],
            d_iw, d_ib, d_pw, sums2[2], sums2[0], sums2[1],
        )  # fmt: skip
