"""The plan of a HuBERT pre-training: what any iteration would be refused for, said before the first one is trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from espnet_ext.errors import UserError, check_choices
from espnet_ext.ssl.features import check_layers, make_features
from espnet_ext.ssl.geometry import RATE_HZ, label_step
from espnet_ext.ssl.model import HubertPretraining
from espnet_ext.ssl.quantizer import KINDS, check_counts
from espnet_ext.tasks.config import parse_args
from espnet_ext.tasks.registry import get_task

PREVIOUS = "previous"  # features: the encoder of the iteration before


@dataclass(frozen=True)
class Iteration:
    """What one iteration is made with; see the options of ``ssl.sh``. ``features`` may be ``previous``."""

    number: int
    train_config: str
    features: str
    layers: tuple[int, ...]
    quantizer: str
    num_units: tuple[int, ...]
    levels: int

    @classmethod
    def of(cls, number: int, words: Mapping[str, str]) -> "Iteration":
        """Read the words of ``ssl.sh``: several numbers with commas, ``-`` where there are no layers."""
        check_choices(f"iteration {number}", ("quantizer", words["quantizer"], tuple(KINDS)))
        try:
            layers, num_units = (
                tuple(int(word) for word in words[name].split(",") if word not in ("", "-"))
                for name in ("layers", "num_units")
            )
            levels = int(words["levels"])
        except ValueError as error:
            raise UserError(f"iteration {number}: --layers, --num_units, --levels: whole numbers ({error})") from None
        return cls(number, words["train_config"], words["features"], layers, words["quantizer"], num_units, levels)


@dataclass(frozen=True)
class Plan:
    """Iterations in their order, and what holds for all of them.

    exp: their folder; what lies below it is made by then. max_frames: that centroids are fitted to. warm_start: each
    encoder begins with the weights of the one before. train_args: more options of every training.
    """

    iterations: Sequence[Iteration]
    exp: Path
    max_frames: int
    warm_start: bool = False
    train_args: Sequence[str] = ()

    def check(self) -> None:
        """``UserError`` for what can be known to be wrong; nothing is written, and no audio is read.

        The features of the first iteration are left to ``fit_units``, which comes next, and opens them anyway.
        """
        before = None
        for one in self.iterations:
            try:
                before = self._check(one, before)
            except UserError as error:
                raise UserError(f"iteration {one.number}: {error}") from None

    def _check(self, one: Iteration, before: HubertPretraining | None) -> HubertPretraining:
        if one.levels < 1:
            raise UserError(f"--levels {one.levels}: must be above 0")
        hop = None if before is None else self._hop(one, before)
        check_counts(one.layers, one.num_units, one.quantizer, self.max_frames)
        model = self._model(one)
        if hop is not None:
            label_step(RATE_HZ / hop, model.encoder.geometry.hop, f"--features {one.features}")
        if self.warm_start and before is not None and _shapes(model) != _shapes(before):
            raise UserError(
                f"--warm_start true: {one.train_config} has an encoder of another shape than the iteration before; "
                "give both the same encoder_conf, or --warm_start false"
            )
        return model

    def _hop(self, one: Iteration, before: HubertPretraining) -> int | None:
        """Samples per frame of the features, whose layers are there; None where that has to be seen."""
        if one.features == PREVIOUS:
            check_layers(f"the encoder of iteration {one.number - 1}", one.layers, before.encoder.num_layers)
            return before.encoder.geometry.hop
        if Path(one.features.removeprefix("hf:")).expanduser().resolve().is_relative_to(self.exp.resolve()):
            return None
        return make_features(one.features, one.layers).hop

    def _model(self, one: Iteration) -> HubertPretraining:
        """What is going to be trained, without weights."""
        task = get_task("ssl")
        options = ["--config", one.train_config, "--output_dir", str(self.exp), *self.train_args, "--ngpu", "0"]
        args = parse_args(task, options)
        counts = one.num_units * (max(1, len(one.layers)) // len(one.num_units))
        args.dry_run, args.num_units = True, [count for count in counts for _ in range(one.levels)]
        task.complete(args)
        task.build_preprocess_fn(args, train=True)
        with torch.device("meta"):
            return task.build_model(args)


def _shapes(model: HubertPretraining) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.encoder.state_dict().items()}
