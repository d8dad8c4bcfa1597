"""Classification losses over cosines between an embedding and the class centres.

Called as ``loss(embedding, label) -> (loss, accuracy, predictions)`` with embedding (batch, size) of any norm and
label (batch,) or (batch, 1); without labels the first two are None. ``set_margin(m)`` serves a margin schedule: the
margin is a buffer, not a Python number, so that torch.compile does not compile anew at every step. Everything runs
in float32, whatever autocast says. The weights keep ESPnet's name and shape.
"""

import torch
import torch.nn.functional as F
from espnet2.spk.loss.abs_loss import AbsLoss

from espnet_ext.errors import UserError

Result = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor]


class Softmax(AbsLoss):
    """Cross entropy of scaled cosines.

    ESPnet's has no scale, so its logits stay in [-1, 1] and the loss cannot fall far below its start.
    """

    sub_centers = 1

    def __init__(self, nout: int, nclasses: int, scale: float = 30.0):
        super().__init__(nout)
        if not isinstance(nclasses, int) or nclasses < 2:
            raise UserError(
                f"the loss needs the number of training speakers (at least 2), got {nclasses}: "
                "set spk_num, or spk2utt from which it is counted"
            )
        if scale <= 0:
            raise UserError(f"loss_conf: scale must be positive, got {scale}")
        self.nclasses = nclasses
        self.scale = scale
        self.weight = torch.nn.Parameter(torch.empty(nclasses * self.sub_centers, nout))
        torch.nn.init.xavier_normal_(self.weight)

    def set_margin(self, margin: float) -> None:
        """Accept a margin schedule and have none: this loss has no margin."""

    def cosines(self, embedding: torch.Tensor) -> torch.Tensor:
        """Return (batch, classes) cosines between embeddings and class centres."""
        return F.linear(F.normalize(embedding), F.normalize(self.weight))

    def logits(self, cosine: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Return what goes through the softmax, before scaling; label is (batch, 1)."""
        return cosine

    def forward(self, input: torch.Tensor, label: torch.Tensor | None = None) -> Result:
        """Return (loss, accuracy, predicted classes (batch,)); the margin never takes part in the prediction."""
        with torch.autocast(input.device.type, enabled=False):
            cosine = self.cosines(input.to(self.weight.dtype))
            predictions = cosine.argmax(dim=1)
            if label is None:
                return None, None, predictions
            label = label.reshape(-1)
            accuracy = (predictions == label).float().mean()
            loss = F.cross_entropy(self.scale * self.logits(cosine, label.unsqueeze(1)), label)
        return loss, accuracy, predictions


class AAMSoftmax(Softmax):
    """Additive angular margin (ArcFace, Deng et al. 2019): the true class answers with cos(theta + m).

    Past theta = pi - m, where cos(theta + m) would rise again, it answers with cos(theta) - m sin(pi - m);
    ``easy_margin`` applies the margin only where cos(theta) > 0.
    """

    def __init__(self, nout: int, nclasses: int, margin: float = 0.3, scale: float = 30.0, easy_margin: bool = False):
        super().__init__(nout, nclasses, scale)
        self.easy_margin = easy_margin
        self.register_buffer("margin", torch.tensor(0.0), persistent=False)
        self.set_margin(margin)

    def set_margin(self, margin: float) -> None:
        """Use ``margin`` (radians, 0 to pi/2) from now on."""
        if not 0 <= margin < 1.5707:
            raise UserError(f"loss_conf: margin must be in [0, pi/2) radians, got {margin}")
        self.margin.fill_(margin)

    def beyond(self, cosine: torch.Tensor) -> torch.Tensor:
        """Return the target's logit where theta > pi - m."""
        return cosine - self.margin * torch.sin(self.margin)  # sin(pi - m) = sin(m)

    def target_logit(self, cosine: torch.Tensor) -> torch.Tensor:
        """Return the true class's answer to its ``cosine``."""
        shifted = add_angle(cosine, self.margin)
        if self.easy_margin:
            return torch.where(cosine > 0, shifted, cosine)
        return torch.where(cosine > -torch.cos(self.margin), shifted, self.beyond(cosine))

    def logits(self, cosine: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Return the cosines with the target's replaced by its answer with the margin."""
        return cosine.scatter(1, label, self.target_logit(cosine.gather(1, label)))


class AMSoftmax(Softmax):
    """Additive margin (CosFace, Wang et al. 2018): the true class y answers with cos(theta_y) - m.

    L = -log e^{s (cos theta_y - m)} / (e^{s (cos theta_y - m)} + sum_{j != y} e^{s cos theta_j}); the defaults are
    those of SUPERB's speaker verification.
    """

    def __init__(self, nout: int, nclasses: int, margin: float = 0.4, scale: float = 30.0):
        super().__init__(nout, nclasses, scale)
        self.register_buffer("margin", torch.tensor(0.0), persistent=False)
        self.set_margin(margin)

    def set_margin(self, margin: float) -> None:
        """Use ``margin`` (a difference of cosines, 0 to below 2) from now on."""
        if not 0 <= margin < 2:
            raise UserError(f"loss_conf: margin must be in [0, 2), a difference of cosines, got {margin}")
        self.margin.fill_(margin)

    def logits(self, cosine: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Return the cosines with the margin taken off the target's."""
        return cosine.scatter(1, label, cosine.gather(1, label) - self.margin)


def add_angle(cosine: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Return cos(theta + angle) for cos(theta).

    The sine is kept off zero, or its slope at cos = +-1 is infinite and one perfectly matched embedding turns every
    weight into NaN (ESPnet issue of the unclamped sine).
    """
    sine = (1.0 - cosine.square()).clamp(min=torch.finfo(cosine.dtype).eps).sqrt()
    return cosine * torch.cos(angle) - sine * torch.sin(angle)


class SubcenterTopkAAMSoftmax(AAMSoftmax):
    """Sub-centre ArcFace with the inter-top-k penalty (Deng et al. 2020; Zhao et al. 2022, arXiv 2110.05042).

    Each class has ``K`` centres and answers with its best one; past pi - m it answers cos(theta) - (1 + cos(pi - m));
    the ``k_top`` best wrong classes answer with cos(theta - m'), m' = mp * margin / 0.2. Large-margin fine-tuning
    (``do_lm``) has no penalty.

    In ESPnet 202511 the penalty is inert (its angle starts at 0 and nothing calls ``update``), ``k_top`` larger than
    the number of classes crashes, the target itself can be among the penalised, and the sine is not clamped.
    """

    def __init__(
        self,
        nout: int,
        nclasses: int,
        scale: float = 32.0,
        margin: float = 0.2,
        easy_margin: bool = False,
        K: int = 3,
        mp: float = 0.06,
        k_top: int = 5,
        do_lm: bool = False,
    ):
        if K < 1 or k_top < 0 or mp < 0:
            raise UserError(f"loss_conf: K must be at least 1, k_top and mp at least 0; got {K}, {k_top}, {mp}")
        self.sub_centers = K
        super().__init__(nout, nclasses, margin, scale, easy_margin)
        torch.nn.init.xavier_uniform_(self.weight)
        self.mp = 0.0 if do_lm else mp
        self.k_top = 0 if do_lm else min(k_top, nclasses - 1)

    def cosines(self, embedding: torch.Tensor) -> torch.Tensor:
        """Return (batch, classes): the cosine with the nearest of each class's centres."""
        return super().cosines(embedding).unflatten(1, (self.nclasses, self.sub_centers)).amax(dim=2)

    def beyond(self, cosine: torch.Tensor) -> torch.Tensor:
        """Return the target's logit where theta > pi - m."""
        return cosine - (1.0 - torch.cos(self.margin))  # cos(pi - m) = -cos(m)

    def logits(self, cosine: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Return the cosines with the target's and the hardest wrong classes' replaced."""
        output = super().logits(cosine, label)
        if self.k_top == 0 or self.mp == 0:
            return output
        hardest = cosine.detach().scatter(1, label, float("-inf")).topk(self.k_top, dim=1).indices
        return output.scatter(1, hardest, add_angle(cosine.gather(1, hardest), -self.mp / 0.2 * self.margin))
