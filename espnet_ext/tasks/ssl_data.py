"""What task ``ssl`` reads: data directories and folders of units, checked before anything is built."""

import argparse

from espnet_ext.datadir import DataDir
from espnet_ext.errors import UserError
from espnet_ext.ssl.geometry import RATE_HZ
from espnet_ext.ssl.model import HubertPretraining
from espnet_ext.ssl.units import UnitFolder
from espnet_ext.tasks.config import accepted_keys, check_keys, check_types
from espnet_ext.train.length_sampler import LengthSampler

MAX_FOLDERS = 32
# What a dry run without data stands in for.
_DRY_UNITS, _DRY_ITERATIONS = 100, 100


def complete_data(task, args: argparse.Namespace) -> None:
    """Fill in what follows from the data and check it; ``UserError`` names the option, the file and the way out."""
    hidden = ("encoder", "num_units", "stream_names")
    check_keys(args.model_conf, [key for key in accepted_keys(HubertPretraining) if key not in hidden], "model_conf")
    check_types(args.model_conf, HubertPretraining, "model_conf")
    if args.max_epoch < 1:
        raise UserError(f"max_epoch: {args.max_epoch} epochs are no training; give at least 1")
    if args.dry_run and not args.train_dir:
        args.num_units = args.num_units or [_DRY_UNITS]
        _fill_schedule(args, _DRY_ITERATIONS)
        return
    for part, where in (("train", "train on"), ("dev", "validate on")):
        folder, units = getattr(args, f"{part}_dir"), getattr(args, f"{part}_units")
        if not folder or not units:
            missing = f"--{part}_dir dump/{part}" if not folder else f"--{part}_units exp/…/units/{part} (make_units)"
            raise UserError(f"no data to {where}: give {missing}")
        if len(units) > MAX_FOLDERS:
            raise UserError(f"--{part}_units: {len(units)} folders; at most {MAX_FOLDERS}, with any number of streams")
    if args.rank_conf:
        args.rank_conf.setdefault("data", args.dev_dir)
    train, dev = folders_of(args, True), folders_of(args, False)
    _same_centroids(train, dev)
    args.num_units = [stream.num_units for folder in train for stream in folder.streams]
    args.stream_names = _names(train)
    args.quantizers = [folder.quantizer for folder in train]
    for part, folders in (("train", train), ("valid", dev)):
        data = DataDir(args.train_dir if part == "train" else args.dev_dir)
        paths = [(str(data.path / "wav.scp"), "speech", "text")]
        paths += [(str(folder.scp), f"units{place}", "text") for place, folder in enumerate(folders)]
        setattr(args, f"{part}_data_path_and_name_and_type", paths)
    task.build_preprocess_fn(args, train=True)  # here it says early what is wrong with its settings
    lengths = {part: lengths_of(args, part == "train") for part in ("train", "dev")}
    for part, used in lengths.items():
        every = len(DataDir(getattr(args, f"{part}_dir")).utterances)
        if len(used) < every:
            why = f"without units or shorter than {args.min_s:g} s (min_s)"
            print(f"{part}: {every - len(used)} of {every} utterances are left out, {why}")
    sampler = LengthSampler(lengths["train"], args.batch_bins)
    LengthSampler(lengths["dev"], args.batch_bins, shuffle=False)
    iterations = args.num_iters_per_epoch or len(sampler)
    steps = iterations // args.accum_grad
    if not steps:
        raise UserError(
            f"accum_grad: {iterations} iterations per epoch never make a step of {args.accum_grad}; lower accum_grad "
            "or batch_bins"
        )
    minutes = sampler.lengths.sum() / RATE_HZ / 60
    audio = f"{minutes / 60:.1f} h" if minutes >= 60 else f"{minutes:.1f} min"
    share, kind = (sampler.surplus(), "dropped") if args.drop_padding else (sampler.padding(), "padding")
    per = f"pass of {len(sampler)} iterations" if args.num_iters_per_epoch else "epoch"
    print(
        f"train: {len(sampler.utterances)} utterances, {audio} and {100 * share:.1f} % {kind} per {per}, "
        f"{iterations} iterations per epoch, {args.max_epoch} epochs, {steps * args.max_epoch} steps; "
        f"streams: {', '.join(f'{n} ({k})' for n, k in zip(args.stream_names, args.num_units, strict=True))}",
        flush=True,
    )
    _fill_schedule(args, steps)


def folders_of(args: argparse.Namespace, train: bool) -> list[UnitFolder]:
    """Return the folders of units to train or to validate on."""
    return [UnitFolder.read(path) for path in (args.train_units if train else args.dev_units)]


def lengths_of(args: argparse.Namespace, train: bool) -> dict[str, int]:
    """Return the samples of every utterance that is used, at most a crop: those with units in every folder."""
    folder, units = (args.train_dir, args.train_units) if train else (args.dev_dir, args.dev_units)
    data = DataDir(folder)
    if data.has("segments") or not data.has("utt2num_samples"):
        raise UserError(
            f"{folder} has {'segments' if data.has('segments') else 'no utt2num_samples'}: give a directory of the "
            f"format stage: python -m espnet_ext.bin.format_data --in {folder} --out dump/…"
        )
    tables = [UnitFolder.read(path).places() for path in units]
    for path, table in zip(units, tables, strict=True):
        both = sum(utt in table for utt in data.utterances)
        if both < len(data.utterances):
            missing = next(utt for utt in data.utterances if utt not in table)
            said = f"{path}: no units of {len(data.utterances) - both} of {len(data.utterances)} utterances of {folder}"
            # --skip_broken leaves some out; units of something else have hardly any.
            if both < len(data.utterances) / 2:
                raise UserError(f"{said} ({missing}, …); make them from this directory: make_units --data {folder}")
    used = [utt for utt in data.utterances if all(utt in table for table in tables)]
    shortest = max(round(args.min_s * RATE_HZ), 1)
    crop = round(args.preprocessor_conf.get("max_s", 15.625) * RATE_HZ)
    lengths = {utt: min(samples, crop) for utt in used if (samples := data.num_samples(utt, RATE_HZ)) >= shortest}
    if not lengths:
        raise UserError(f"{folder}: none of {len(used)} utterances with units has {args.min_s:g} s (--min_s)")
    return lengths


def _same_centroids(train: list[UnitFolder], dev: list[UnitFolder]) -> None:
    if len(train) != len(dev):
        raise UserError(f"--train_units has {len(train)} folder(s), --dev_units {len(dev)}; give the same streams")
    for one, other in zip(train, dev, strict=True):
        if one.quantizer != other.quantizer:
            raise UserError(
                f"{one.path} and {other.path} come from different centroids: the dev loss would mean nothing; make "
                "both with the same --centroids"
            )


def _names(folders: list[UnitFolder]) -> list[str]:
    names: list[str] = []
    for folder in folders:
        for stream in folder.streams:
            name = stream.name
            while name in names:
                name += "_"
            names.append(name)
    return names


def _fill_schedule(args: argparse.Namespace, steps: int) -> None:
    if args.scheduler == "epochs":
        args.scheduler_conf.setdefault("iters_per_epoch", steps)
        args.scheduler_conf.setdefault("num_epochs", args.max_epoch)
