"""What processes that share a step do after it: they agree on gradients, and check that they do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmark.core import ranks
from benchmark.core.errors import UserError
from benchmark.methods.base import Method, Outcome


def shared(method: Method, outcome: Outcome, trained: Sequence[Tensor], check: bool) -> Outcome:
    """The outcome of a step that processes share; makes the gradients the means over them.

    With `check`, raises UserError if the method's loss needs the whole batch but did not see it.
    """
    if ranks.size() == 1:
        return outcome
    loss = outcome.loss.detach().as_subclass(Tensor).clone()
    if check and method.context.whole_batch_loss and not _of_the_whole_batch(outcome.loss, loss):
        raise UserError(
            f"method {type(method).__name__}: its loss is not of the whole batch on several devices; "
            "its embeddings have to come from each_view or projections, or COMPONENT has to say "
            "per_sample_loss if the loss is a mean over images"
        )
    values = [loss]
    if outcome.pretext is not None:
        values.append(outcome.pretext.detach().as_subclass(Tensor).clone())
    ranks.reduce_means([*(p.grad for p in trained if p.grad is not None), *values])
    return Outcome(loss, values[1] if outcome.pretext is not None else None)


def _of_the_whole_batch(loss: Tensor, value: Tensor) -> bool:
    """Whether a loss was computed from all embeddings, and has the same value on all processes."""
    same = torch.allclose(ranks.each(value), value, rtol=1e-4, equal_nan=True)
    return same and isinstance(loss, ranks.Whole)


def plain_buffers(method: Method) -> None:
    """Takes the class `ranks.Whole` from buffers, which the next step's own rows may meet."""
    if ranks.size() == 1:
        return
    for module in method.modules():
        for name, buffer in module._buffers.items():
            if isinstance(buffer, ranks.Whole):
                module._buffers[name] = buffer.as_subclass(Tensor)


def check_equal(method: Method) -> None:
    """Raises UserError if processes that share a step have other weights or buffers after it."""
    if ranks.size() == 1:
        return
    for name, value in method.state_dict().items():
        if not ranks.same(value):
            raise UserError(
                f"{name} of {type(method).__name__} differs between the devices: what a step adds to it "
                "has to come from all images. A method gets their embeddings from each_view or "
                "each_target, and a norm their values if its COMPONENT says batch_dependent"
            )
