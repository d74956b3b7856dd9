"""LADE, which disentangles the label distribution (Hong et al. 2021, as LIFT uses it)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fastlift.training.distributed import World, gather
from fastlift.training.losses.base import Loss, not_negative


class LADELoss(Loss):
    """CE(z + log p, y) plus a Donsker-Varadhan estimate that pulls each class's logits towards a balanced posterior.

    With s = z - log p + log(1/C), for each class c: e_c = mean_{y=c} z_c - d_c - lambda d_c^2, d_c = log mean_i exp(s_ic);
    loss = CE - weight * sum_c p_c e_c. Lambda is the ``regularisation``, n the ``class_counts`` [C]; shapes as ``Loss``.

    The means of e_c and d_c are over the images of all processes; for that each tells the others three numbers a class.
    Raises: UserError for a weight or regularisation below 0.
    """

    prior: Tensor

    def __init__(self, class_counts: Tensor, weight: float = 0.1, regularisation: float = 0.1) -> None:
        super().__init__()
        not_negative(weight=weight, regularisation=regularisation)
        self.weight, self.regularisation = weight, regularisation
        counts = class_counts.float()
        self.register_buffer("prior", counts / counts.sum())
        self._world = World()

    def join(self, world: World) -> None:
        self._world = world

    def without_images(self) -> None:
        nothing = self.prior.new_zeros(3, len(self.prior))
        nothing[0] = -math.inf
        gather(nothing, self._world)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        classes = logits.shape[1]
        prior = self.prior.to(logits)
        cross_entropy = F.cross_entropy(logits + prior.log(), labels)
        # Not by indexed sums, which on a GPU add in the order in which threads come by.
        is_own = labels[:, None] == torch.arange(classes, device=labels.device)  # [B, C]
        totals = torch.where(is_own, logits, 0.0).sum(dim=0)
        counts = is_own.sum(dim=0).to(logits)
        spread = logits - torch.log(prior + 1e-9) + math.log(1 / classes + 1e-9)
        spreads, totals, counts = self._of_all(torch.stack([torch.logsumexp(spread, dim=0), totals, counts]))
        divergence = spreads - counts.sum().log()
        estimate = totals / (counts + 1e-8) - divergence - self.regularisation * divergence**2
        return cross_entropy - self.weight * (prior * estimate).sum()

    def _of_all(self, mine: Tensor) -> Tensor:
        """log sum exp, sum and number of the own logits [3, C] over all processes, from this one's.

        Gradients flow to this process's logits alone. Its loss will be multiplied by its share of the images; what all share
        is not divided by the processes, so it enters with the inverse.
        """
        if self._world.size == 1:
            return mine
        each = gather(mine.detach(), self._world)  # [N, 3, C]
        inverse = each[:, 2].sum() / mine[2].detach().sum()
        each[self._world.rank] = mine.detach() + (mine - mine.detach()) * inverse
        return torch.stack([torch.logsumexp(each[:, 0], dim=0), each[:, 1].sum(dim=0), each[:, 2].sum(dim=0)])
