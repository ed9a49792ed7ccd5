"""The linear heads of a grid as one product: a step of SGD for all of them, and what each of them is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

BN_EPS = 1e-6  # BatchNorm1d(affine=False, eps=1e-6) of the reference's head
BN_MOMENTUM = 0.1
LossAndGrad = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # see `fgmae_bench.runs.tasks`
INIT_STD = 0.01  # truncated normal, as for MAE's probing heads


@dataclass
class HeadGrid:
    """G linear heads over one standardisation. `weight` (D, G*C), `bias` (G*C); heads never influence one another.

    Standardisation does not depend on the heads, so one serves all: the batch's own statistics in training, running
    ones in evaluation. Every head starts from the same draw, so that it is what a run of its own would give.
    """

    weight: Tensor
    bias: Tensor
    velocity_w: Tensor
    velocity_b: Tensor
    running_mean: Tensor  # (D,)
    running_var: Tensor  # (D,)
    heads: int
    classes: int

    @classmethod
    def start(cls, dim: int, classes: int, heads: int, seed: int) -> HeadGrid:
        """Heads before training: truncated normal weights (std 0.01), zero bias."""
        drawn = torch.empty(classes, dim)
        torch.nn.init.trunc_normal_(drawn, std=INIT_STD, generator=torch.Generator().manual_seed(seed))
        weight = drawn.T.repeat(1, heads).contiguous()
        bias = torch.zeros(heads * classes)
        return cls(
            weight=weight,
            bias=bias,
            velocity_w=torch.zeros_like(weight),
            velocity_b=torch.zeros_like(bias),
            running_mean=torch.zeros(dim),
            running_var=torch.ones(dim),
            heads=heads,
            classes=classes,
        )

    def step(
        self,
        features: Tensor,
        targets: Tensor,
        lr: Tensor,
        weight_decay: Tensor,
        momentum: float,
        loss_and_grad: LossAndGrad,
    ) -> Tensor:
        """One step of SGD: features (B, D), targets of the task, lr and weight_decay (G,). Losses (G,) before the step.

        The update is torch.optim.SGD's: v = momentum v + (g + wd w), w = w - lr v.
        """
        x = self._standardised_batch(features)
        loss, gradient = loss_and_grad((x @ self.weight + self.bias).view(len(x), self.heads, self.classes), targets)
        flat = gradient.reshape(len(x), -1)
        rate, decay = lr.repeat_interleave(self.classes), weight_decay.repeat_interleave(self.classes)
        self.velocity_w.mul_(momentum).add_(x.T @ flat).addcmul_(self.weight, decay)
        self.velocity_b.mul_(momentum).add_(flat.sum(0)).addcmul_(self.bias, decay)
        self.weight.sub_(rate * self.velocity_w)
        self.bias.sub_(rate * self.velocity_b)
        return loss

    def logits(self, features: Tensor) -> Tensor:
        """Evaluation logits (N, G, C) of features (N, D)."""
        x = (features - self.running_mean) * torch.rsqrt(self.running_var + BN_EPS)
        return (x @ self.weight + self.bias).view(len(x), self.heads, self.classes)

    def head(self, g: int) -> dict[str, Tensor]:
        """Copies of one head: `weight` (C, D), `bias` (C,), `running_mean` (D,), `running_var` (D,)."""
        columns = slice(g * self.classes, (g + 1) * self.classes)
        return {
            "weight": self.weight[:, columns].T.contiguous().clone(),
            "bias": self.bias[columns].clone(),
            "running_mean": self.running_mean.clone(),
            "running_var": self.running_var.clone(),
        }

    def velocity(self, g: int) -> dict[str, Tensor]:
        """Copies of one head's momentum: `weight` (C, D), `bias` (C,)."""
        columns = slice(g * self.classes, (g + 1) * self.classes)
        return {"weight": self.velocity_w[:, columns].T.contiguous().clone(), "bias": self.velocity_b[columns].clone()}

    def put(self, g: int, head: dict[str, Tensor], velocity: dict[str, Tensor]) -> None:
        """Set one head, its momentum, and the standardisation that all share."""
        columns = slice(g * self.classes, (g + 1) * self.classes)
        self.weight[:, columns], self.bias[columns] = head["weight"].T, head["bias"]
        self.velocity_w[:, columns], self.velocity_b[columns] = velocity["weight"].T, velocity["bias"]
        self.running_mean.copy_(head["running_mean"])
        self.running_var.copy_(head["running_var"])

    def _standardised_batch(self, features: Tensor) -> Tensor:
        # Biased variance to standardise, unbiased for the running one, as torch's BatchNorm1d.
        mean = features.mean(0)
        centred = features - mean
        var = centred.square().mean(0)
        unbiased = var * (len(features) / max(len(features) - 1, 1))
        self.running_mean.lerp_(mean, BN_MOMENTUM)
        self.running_var.lerp_(unbiased, BN_MOMENTUM)
        return centred * torch.rsqrt(var + BN_EPS)


def head_logits(head: dict[str, Tensor], features: Tensor) -> Tensor:
    """Evaluation logits (N, C) of one head over features (N, D)."""
    x = (features - head["running_mean"]) * torch.rsqrt(head["running_var"] + BN_EPS)
    return x @ head["weight"].T + head["bias"]
