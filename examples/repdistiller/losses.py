"""Knowledge distillation and attention transfer."""

import torch.nn.functional as F
from torch import nn


class DistillKL(nn.Module):
    """Hinton et al. 2015: T² · KL(teacher ‖ student) at temperature T, mean over the batch."""

    def __init__(self, temperature):
        super().__init__()
        self.temperature = temperature

    def forward(self, logit_s, logit_t):
        p_s = F.log_softmax(logit_s / self.temperature, dim=1)
        p_t = F.softmax(logit_t / self.temperature, dim=1)
        return F.kl_div(p_s, p_t, reduction="batchmean") * self.temperature**2


class Attention(nn.Module):
    """Zagoruyko & Komodakis 2017: mean squared difference of unit-norm attention maps, one value
    per stage. A teacher's map is [N, C, H, W], or its attention Σ_c x²/C already, [N, H, W]."""

    def forward(self, g_s, g_t):
        return [(self.at(s) - self.at(t)).pow(2).mean() for s, t in zip(g_s, g_t)]

    def at(self, f):
        attention = f.pow(2).mean(1) if f.dim() == 4 else f
        return F.normalize(attention.flatten(1))
