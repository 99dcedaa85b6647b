"""The training loop of one cell."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmark.components import registry
from benchmark.components.facts import SECTIONS
from benchmark.core import ranks
from benchmark.core.errors import UserError
from benchmark.core.randomness import Draw, keyed
from benchmark.core.transfer import send
from benchmark.data.augment import draw_views, make_views, pixels_for
from benchmark.data.storage import Images, ahead, in_advance
from benchmark.methods.base import Batch, Method
from benchmark.methods.micro_batches import Part
from benchmark.methods.teacher import rising
from benchmark.planning.configuration import ScheduleConfig, TrainingConfig
from benchmark.training.acceleration import Step, eager
from benchmark.training.accumulation import accumulate, division
from benchmark.training.checkpoint import load_checkpoint, save_checkpoint
from benchmark.training.curves import UPDATE, stretches
from benchmark.training.network import parameter_groups
from benchmark.training.sharing import check_equal, plain_buffers, shared

VERSION = 2
"""Raised whenever the loop would give other weights for the same configuration."""

LOSS_CHECK = 25
"""Steps between two checks that the losses are finite: each check waits for the device."""

CHECKPOINT_SECONDS = 30.0
"""Longest time between two checkpoints, plus one step: the most that a killed run loses."""

FIRST_CHECKPOINT = 1.0
"""Seconds to the first checkpoint. Each further one comes after as long as the run has taken so far, so
that a young run loses at most half of itself, up to CHECKPOINT_SECONDS."""

SAVING = 0.02
"""Largest share of the time that is spent saving, whatever a checkpoint takes."""

MARKS = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""Shares of the training after which the online kNN judges the network."""


Progress = Callable[[int, int, Tensor], bool]
"""Gets the steps done, all steps and the last loss (on the device); returns whether to continue."""


class Interrupted(Exception):
    """The training was asked to stop, and saved a checkpoint."""


@dataclass(frozen=True)
class Trained:
    """The result of a training run."""

    status: Literal["done", "diverged"]
    """`diverged` if a loss was not finite."""
    steps: int
    """Steps of the whole training run."""
    first_non_finite: int | None
    """The first step, counted from 1, whose loss was not finite."""
    curves: dict[str, Tensor]
    """By step (steps,), float32 on the CPU: loss, gradient_norm, pretext (NaN where undefined), and the
    relative update of each section, which is NaN except at the last step of a stretch."""
    online_knn: Tensor
    """The accuracy after each of MARKS; NaN where it was not computed."""
    resumed_at: int
    flops_per_step: int
    """Floating-point operations of the first step's matrix products and convolutions, both ways.

    Of all devices: those of a loss of the whole batch count on each."""
    devices: tuple[int, int]
    """The least and the greatest number of devices that have trained it together."""


def rate_at(
    step: int,
    steps: int,
    peak: float,
    warmup_fraction: float,
    schedule: ScheduleConfig = ScheduleConfig(),  # noqa: B008  # frozen
) -> float:
    """Learning rate of a step counted from 0: linear warm-up over a share of the steps, then cosine.

    (Loshchilov & Hutter 2017, 1608.03983, without restarts; the last step is just above the end.) Or,
    after the warm-up, the peak with a drop at each share of the steps that the schedule has (He et al.
    2016, 1512.03385, §3.4).
    """
    warmup = round(warmup_fraction * steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule.drop_at:
        drops = sum(step >= round(share * steps) for share in schedule.drop_at)
        return peak * schedule.drop_by**drops
    cosine = peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
    return cosine + schedule.end * (peak - cosine)


def batch_indices(seed: int, step: int, batch: int, count: int) -> Tensor:
    """The images of one step. Each epoch is a permutation without its incomplete last batch."""
    epoch, place = divmod(step, count // batch)
    return _order(seed, epoch, count)[place * batch : (place + 1) * batch]


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> Tensor:
    """The images of an epoch; drawing a million of them takes as long as a step."""
    return torch.randperm(count, generator=keyed(seed, "order", epoch))


def train(
    method: Method,
    recipe: TrainingConfig,
    seed: int,
    images: Images | Tensor,
    labels: Tensor,
    standardise: Callable[[Tensor], Tensor],
    device: torch.device,
    checkpoint: Path,
    fingerprint: str,
    progress: Progress,
    checkpoint_steps: int | None = None,
    online_knn: Callable[[Callable[[], bool]], float | None] | None = None,
    final: tuple[Path, str] | None = None,
    trace: Callable[[str, Iterable[tuple[str, Tensor]]], None] | None = None,
    faster: Callable[[Step], Step] | None = None,
) -> Trained:
    """Trains `method` in place on uint8 images (N, C, H, W) and labels (N,) on `device`.

    `progress` is called after every step. If it returns False, the state is saved and Interrupted is
    raised. A later call with the same fingerprint resumes from the checkpoint and gives the same bits.
    Checkpoints are written by time, or after every `checkpoint_steps` steps if that is given.
    `online_knn` judges the network after each of MARKS and restores its state. Its argument is a
    function that returns whether to continue; it returns None if it was stopped, and the resumed run
    judges again. `final` is the file of the state at the end, and its fingerprint: if it exists, nothing
    is trained. `trace` gets the `views` of the first step and the state after it (`first_step`).
    `faster` makes another step of the eager one after the first, see `training.acceleration`.
    """
    batch, steps = recipe.batch_size, recipe.steps
    groups = parameter_groups(
        method,
        recipe.weight_decay,
        recipe.weight_decay_on,
        recipe.schedule.constant,
        recipe.vector_rate,
        method.rate_factors(),
    )
    chosen = recipe.optimizer
    optimizer: torch.optim.Optimizer = registry.build(
        "optimizer", chosen.name, groups, recipe.learning_rate, **chosen.options
    )
    trained = [p for group in groups for p in group["params"]]
    sections = _sections(method)
    names = ["loss", "gradient_norm", "pretext", *(UPDATE + section for section in sections)]
    curves = {name: torch.full((steps,), torch.nan, device=device) for name in names}
    stretch_ends = set(stretches(steps))
    method.train()
    # Counted at the first step (a later one may differ: frozen weights, a queue that has filled). A
    # tensor, so that it is saved and restored with the rest.
    flops = torch.zeros((), dtype=torch.int64)
    scores = torch.full((len(MARKS),), torch.nan)
    # A state of an earlier version does not have it: there was one device.
    devices = torch.ones(2, dtype=torch.int64)
    saved_curves = curves | {"flops": flops, "watched": scores, "devices": devices}
    marks = torch.tensor([max(1, round(share * steps)) for share in MARKS])

    def result(status: Literal["done", "diverged"], done: int, first: int | None = None) -> Trained:
        ended = {name: curve[:done].cpu() for name, curve in curves.items()}
        least, greatest = devices.tolist()
        return Trained(status, steps, first, ended, scores, start, int(flops), (least, greatest))

    def load(path: Path, key: str) -> int:
        done = load_checkpoint(path, key, method, optimizer, saved_curves)
        if done:
            devices[0].clamp_(max=ranks.size())
            devices[1].clamp_(min=ranks.size())
        else:
            devices.fill_(ranks.size())
        if done != ranks.agreed(done):
            raise UserError(f"{path.parent}: not a folder that all machines of a cell share")
        return done

    start = load(*final) if final else 0
    if start == steps:
        return result("done", steps)
    start = load(checkpoint, fingerprint)

    def save(done: int) -> None:
        if ranks.rank() == 0:
            save_checkpoint(checkpoint, fingerprint, done, method, optimizer, saved_curves)

    def proceed(done: int) -> bool:
        """Reports progress; all processes stop after the same step."""
        return bool(ranks.agreed(progress(done, steps, curves["loss"][done - 1])))

    def judge(done: int) -> None:
        unscored = (marks == done) & scores.isnan()
        if online_knn is None or not unscored.any():
            return
        # Processes that share a step make their forward passes here together, so none may stop between.
        together = ranks.size() > 1
        score = online_knn(lambda: progress(done, steps, curves["loss"][done - 1]) or together)
        method.train()
        if score is None:
            save(done)
            raise Interrupted
        scores[unscored] = score

    def diverged(done: int) -> Trained | None:
        if done % LOSS_CHECK and done < steps:
            return None
        broken = torch.nonzero(~curves["loss"][:done].isfinite())
        if not len(broken):
            return None
        first = int(broken[0]) + 1
        return result("diverged", first, first)

    if start:  # The run may have been stopped while its last step was judged.
        judge(start)
        if ended := diverged(start):
            return ended
    begun = saved_at = time.monotonic()
    interval = FIRST_CHECKPOINT
    mixed = recipe.precision == "bfloat16"
    precision = functools.partial(torch.autocast, device.type, torch.bfloat16, enabled=mixed)
    parts = recipe.micro_batches
    micro_batches = division(method.context, parts) if parts > 1 else None
    run: Step = eager(method, precision)
    if micro_batches:
        run = functools.partial(
            accumulate, method, micro_batches=micro_batches, precision=precision
        )
    if start and faster is not None:
        run = faster(run)
    counter = FlopCounterMode(display=False)
    rows, part = None, None
    if ranks.size() > 1:
        rows = ranks.rows(batch // ranks.size())
        part = Part(rows.to(device), batch)

    def indices(step: int) -> Tensor:
        found = batch_indices(seed, step, batch, len(images))
        return found if rows is None else found[rows]

    def numbers(step: int) -> dict[str, dict[str, Tensor]]:
        """What a step needs of the CPU: its images, and the random numbers of views and method."""
        generators = [keyed(seed, "view", number, step) for number in range(len(recipe.views))]
        return {
            "images": {"index": indices(step)},
            "views": draw_views(batch, images.shape[2:], recipe.views, generators, rows),
            "method": method.draws(Draw(seed, step), batch),
        }

    span = range(start, steps)
    # A CPU has no time to spare while it computes a step.
    drawn = map(numbers, span) if device.type == "cpu" else in_advance(numbers, span)
    ready = isinstance(images, Tensor) or images.ready
    gathered = None if ready else ahead(images, map(indices, span))
    for step, given_numbers in enumerate(drawn, start):
        sent = send(given_numbers, device)
        index = sent["images"]["index"]
        pixels = images[index] if gathered is None else next(gathered)
        made = make_views(pixels_for(recipe.views, pixels), recipe.views, sent["views"])
        inputs = [standardise(one) for one in made]
        if trace and step == 0:
            whole = map(ranks.gather, inputs)
            trace("views", ((str(number), one) for number, one in enumerate(whole)))
        optimizer.zero_grad()
        given = Batch(
            inputs, labels[index], Draw(seed, step), step / steps, part=part, drawn=sent["method"]
        )
        with counter if step == 0 else contextlib.nullcontext():
            outcome = run(given)
        if step == 0:
            flops.fill_(counter.get_total_flops() * ranks.size())
        if step == 0 and faster is not None:
            # Not before: operations inside compiled code would not be counted.
            run = faster(run)
        check = step == start or (step + 1) % LOSS_CHECK == 0
        outcome = shared(method, outcome, trained, check)
        norm = torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        if recipe.clip_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(trained, recipe.clip_grad_norm, norm)
        peak = recipe.learning_rate
        rate = rate_at(step, steps, peak, recipe.warmup_fraction, recipe.schedule)
        for group in optimizer.param_groups:
            group["lr"] = group["rate_factor"] * (peak if group["constant"] else rate)
            if recipe.weight_decay_end is not None and group["decays"]:
                group["weight_decay"] = rising(
                    recipe.weight_decay, recipe.weight_decay_end, step / steps
                )
        measured = sections if step + 1 in stretch_ends else {}
        before = {name: [w.detach().clone() for w in weights] for name, weights in measured.items()}
        optimizer.step()
        for section, weights in before.items():
            curves[UPDATE + section][step] = _relative_update(weights, sections[section])
        method.after_step(step / steps)
        plain_buffers(method)
        if step == start:
            check_equal(method)
        if trace and step == 0:
            trace("first_step", sorted(method.state_dict().items()))
        curves["loss"][step] = outcome.loss
        curves["gradient_norm"][step] = norm
        if outcome.pretext is not None:
            curves["pretext"][step] = outcome.pretext
        done = step + 1
        judge(done)
        if ended := diverged(done):
            return ended
        if not proceed(done):
            save(done)
            raise Interrupted
        now = time.monotonic()
        due = (
            now - saved_at > interval if checkpoint_steps is None else done % checkpoint_steps == 0
        )
        if due and done < steps:
            save(done)
            saved_at = time.monotonic()
            interval = max(min(CHECKPOINT_SECONDS, saved_at - begun), (saved_at - now) / SAVING)
    check_equal(method)
    if final and ranks.rank() == 0:
        save_checkpoint(*final, steps, method, None, saved_curves)
    return result("done", steps)


def _sections(method: Method) -> dict[str, list[Tensor]]:
    """The trained weights of two or more dimensions, by section."""
    sections: dict[str, list[Tensor]] = {}
    for name, parameter in method.named_parameters():
        section = name.partition(".")[0]
        if section in SECTIONS and parameter.requires_grad and parameter.ndim >= 2:
            sections.setdefault(section, []).append(parameter)
    return sections


@torch.no_grad()
def _relative_update(before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
    """‖Δw‖ / ‖w‖ over all weights of a section: the step's size relative to the weights.

    With a norm, the scale of the weights before it does not matter, so that the same learning rate is
    another step than without it (Arora et al. 2019, 1812.03981; Wan et al. 2021, 2006.08419).
    """
    moved = torch.nn.utils.get_total_norm(
        [new - old for old, new in zip(before, after, strict=True)]
    )
    return moved / torch.nn.utils.get_total_norm(list(before))
