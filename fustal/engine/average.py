"""The exponential moving average of the weights of a network: the EMA teacher.

Taught in notebook 04. Source: docs/method.md section 5; Tarvainen and Valpola, Mean teachers, NeurIPS 2017.
"""

import copy
from typing import TypeVar

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

Model = TypeVar("Model", bound=nn.Module)


def start_average(student: Model) -> Model:
    """A copy of a network that will average its weights, in evaluation mode."""
    return copy.deepcopy(student).requires_grad_(False).eval()


def decay_of(step: int, steps: int, memory: float, *, warm_up: bool = True) -> float:
    """The decay of the average at a step: it forgets over about `memory` of all steps, and over less at the beginning.

    Without the warm-up, the average would keep the random weights of the start for a long time.

    Args:
        step: from 0.
        steps: number of steps of the student's training, without distillation.
        memory: time constant as a share of `steps`.
        warm_up: as long as it is smaller, the decay is (2 + step) / (11 + step).

    >>> [round(decay_of(step, 1000, 0.1), 3) for step in (0, 90, 5000)]
    [0.182, 0.911, 0.99]
    """
    constant = max(memory * steps, 1.0)
    decay = 1 - 1 / constant
    return min(decay, (2 + step) / (11 + step)) if warm_up else decay


@torch.no_grad()
def update_average(ema: nn.Module, student: nn.Module, decay: float) -> None:
    """Moves the averaged weights towards the student's: ema = decay · ema + (1 - decay) · student; copies buffers.

    >>> ema, student = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.zeros_(ema.weight), nn.init.ones_(student.weight)
    >>> update_average(ema, student, 0.75)
    >>> ema.weight.item()
    0.25
    """
    average_all = get_ema_multi_avg_fn(decay)  # one call for all weights; its last argument is an unused counter
    average_all(list(ema.parameters()), list(student.parameters()), None)
    for average, value in zip(ema.buffers(), student.buffers(), strict=True):
        average.copy_(value)
