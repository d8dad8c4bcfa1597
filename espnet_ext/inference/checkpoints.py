"""Encoders to compare: the checkpoints of a run in the order of their steps, or any list of encoders."""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from espnet_ext.errors import UserError
from espnet_ext.ssl.features import identity_of
from espnet_ext.upstream.load import no_such_encoder


@dataclass(frozen=True)
class Checkpoint:
    """An encoder that has not been opened yet.

    name: for tables. spec: what ``open`` opens. step: optimiser steps, epoch: finished epochs, valid_loss: what the
    training measured, each None where it is not known. untrained: random weights, from before any training; step 0 of
    one that began with the weights of another (``init_param``) is none.
    """

    name: str
    spec: str
    step: int | None = None
    epoch: int | None = None
    valid_loss: float | None = field(default=None, compare=False)
    untrained: bool = False

    def open(self, device: str, seed: int = 0) -> torch.nn.Module:
        """Return the encoder in evaluation mode: ``hidden_states(wav, lengths)``, ``samples_for``, ``num_layers``."""
        from espnet_ext.inference.speaker_frames import open_upstream
        from espnet_ext.inference.ssl import own_encoder

        if self.spec.startswith("init:"):
            encoder = random_encoder(self.spec.removeprefix("init:"), seed)
        else:
            encoder = own_encoder(self.spec) or open_upstream(self.spec)
        return encoder.requires_grad_(False).eval().to(device)

    def identity(self) -> str:
        """Change whenever the weights may: by the files' sizes and times."""
        spec = self.spec.removeprefix("init:")
        path = Path(spec.removeprefix("hf:")).expanduser()
        facts = [self.spec, *([spec] if path.is_file() else identity_of(spec))]
        for file in (path, path / "config.yaml", path.parent / "config.yaml"):
            if file.is_file():
                facts.append([file.name, file.stat().st_size, file.stat().st_mtime_ns])
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def find_checkpoints(specs: Sequence[str]) -> list[Checkpoint]:
    """Return the encoders that ``specs`` name.

    A spec is what ``load_upstream`` takes (hf:ID_OR_FOLDER, s3prl:NAME, torchaudio:PIPELINE, a checkpoint file), the
    folder of a training (every checkpoint in it by its steps, and of task ``ssl`` the random initialisation first if it
    began with that), or init:SPEC, an encoder of that shape with random weights.
    """
    found: list[Checkpoint] = []
    for spec in specs:
        path = Path(spec).expanduser()
        if path.is_dir() and (path / "config.yaml").is_file() and not (path / "config.json").is_file():
            found += _of_run(path)
        elif path.is_file() and path.suffix == ".pth" and (path.parent / "config.yaml").is_file():
            found.append(_of_file(path))
        elif ":" not in spec and not path.exists():
            # Before anything is measured, not when its turn comes.
            raise no_such_encoder(spec, "the folder of a training, init:SPEC, ")
        else:
            random = spec.startswith("init:")
            found.append(Checkpoint(spec, spec, 0 if random else None, untrained=random))
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        # Files of several runs have the same names.
        found = [replace(one, name=one.spec) for one in found]
        twice = [one.spec for one in found if [other.spec for other in found].count(one.spec) > 1]
        if twice:
            raise UserError(f"--checkpoints: {twice[0]} is given twice")
    return found


def _of_run(folder: Path) -> list[Checkpoint]:
    """Random initialisation, and what was kept: by ``rank_conf: {keep: true}`` at steps, by ESPnet after epochs."""
    from espnet_ext.train.rank import kept_steps
    from espnet_ext.zoo.yaml_file import load_yaml

    steps = list(kept_steps(folder))
    epochs = sorted(
        (path for path in folder.glob("*epoch.pth") if path.name.removesuffix("epoch.pth").isdigit()),
        key=lambda path: int(path.name.removesuffix("epoch.pth")),
    )
    if not steps and not epochs:
        raise UserError(f"{folder}: no checkpoints; train first, or give *.pth files of it")
    found = {one.step if one.step is not None else one.name: one for one in map(_of_file, epochs)}
    # Weights that were kept at the end of an epoch are there twice; the epoch's knows its loss.
    found = {one.step: one for one in map(_of_file, steps)} | found
    is_ssl = load_yaml(folder / "config.yaml").get("preprocessor") == "units"
    if 0 not in found and is_ssl and _begins_at_random(folder):
        found = {0: Checkpoint("init", f"init:{folder}", 0, 0, untrained=True)} | found
    return sorted(found.values(), key=lambda one: (one.step is None, one.step or 0, one.epoch or 0))


def _of_file(path: Path) -> Checkpoint:
    kind = "step" if path.name.endswith("step.pth") else "epoch"
    number = path.name.removesuffix(f"{kind}.pth")
    steps, losses = _history(path.parent)
    if not number.isdigit():
        target = path.resolve().name.removesuffix("epoch.pth")
        epoch = int(target) if target.isdigit() else None
        return Checkpoint(path.name, str(path), steps.get(epoch), epoch, losses.get(epoch))
    if kind == "step":
        epoch = next((epoch for epoch, step in steps.items() if step == int(number)), None)
        untrained = int(number) == 0 and _begins_at_random(path.parent)
        return Checkpoint(f"step {number}", str(path), int(number), epoch, losses.get(epoch), untrained)
    epoch = int(number)
    return Checkpoint(f"epoch {epoch}", str(path), steps.get(epoch), epoch, losses.get(epoch))


def _begins_at_random(folder: Path) -> bool:
    """False for a training that goes on from other weights (``init_param``, as ``warm_start`` of ssl.sh gives it)."""
    from espnet_ext.zoo.yaml_file import load_yaml

    return not load_yaml(folder / "config.yaml").get("init_param")


@functools.cache
def _history(folder: Path) -> tuple[dict[int, int], dict[int, float]]:
    """Steps until the end of every epoch, and the loss on the dev data, from ``checkpoint.pth`` where it is there."""
    from espnet_ext.train.checkpoint import optimizer_steps, read_reporter
    from espnet_ext.zoo.yaml_file import load_yaml

    if not (folder / "checkpoint.pth").is_file():
        return {}, {}
    config = load_yaml(folder / "config.yaml")
    stats = read_reporter(folder / "checkpoint.pth")["stats"]
    every = max(1, int(config.get("accum_grad") or 1))
    name = next((key for phase, key, *_ in config.get("best_model_criterion") or [] if phase == "valid"), "loss")
    losses = {epoch: values["valid"][name] for epoch, values in stats.items() if name in values.get("valid", {})}
    return optimizer_steps(stats, every), losses


def random_encoder(spec: str, seed: int = 0) -> torch.nn.Module:
    """Return the encoder that ``spec`` describes before any training.

    Of a training of task ``ssl``: exactly the weights it began with, by its own seed. Of a Hugging Face model: random
    weights of its configuration by ``seed``.
    """
    path = Path(spec.removeprefix("hf:")).expanduser()
    if (path / "config.yaml").is_file() and not (path / "config.json").is_file():
        return _before_training(path)
    from espnet_ext.upstream.huggingface import HuggingFaceFrontend, portable_conf

    if not spec.startswith("hf:") and not (path / "config.json").is_file():
        raise UserError(f"init:{spec}: give the folder of a training of task ssl, or hf:ID_OR_FOLDER")
    conf = portable_conf({"model": spec.removeprefix("hf:")})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HuggingFaceFrontend(**conf)


def _before_training(folder: Path) -> torch.nn.Module:
    import argparse

    from espnet_ext.tasks.registry import get_task
    from espnet_ext.zoo.yaml_file import load_yaml

    config = load_yaml(folder / "config.yaml")
    if config.get("preprocessor") != "units" or config.get("encoder") != "hubert":
        raise UserError(f"init:{folder}: its config.yaml is of no training of task ssl")
    if config.get("init_param"):
        raise UserError(f"init:{folder}: it began with {config['init_param'][0]}, not with random weights; give that")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.get("seed") or 0)
        return get_task("ssl").build_model(argparse.Namespace(**config)).encoder
