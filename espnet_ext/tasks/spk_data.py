"""What the ``spk`` task derives from its data: ESPnet's lists, number of classes, iterations per epoch, dev trials."""

import argparse
import logging
import math
import os

import numpy as np

from espnet_ext.datadir.directory import DataDir
from espnet_ext.datadir.tables import fix_command, read_scp
from espnet_ext.datadir.trials import Trials, read_trials
from espnet_ext.errors import UserError
from espnet_ext.train.sampler import BalancedSampler
from espnet_ext.train.trials import DevUtterances, TrialIterFactory
from espnet_ext.zoo.tensors import load_tensors

# Frontends that are pretrained encoders: they take 16 kHz, and mix their layers unless one is chosen.
PRETRAINED = ("huggingface", "s3prl", "torchaudio")
# What a dry run without data stands in for.
_DRY_CLASSES, _DRY_ITERATIONS = 10, 100


def complete_data(task, args: argparse.Namespace) -> None:
    """Fill in what follows from the data and check it; ``UserError`` names the option, the file and the way out."""
    if args.num_att_plot:
        logging.warning("num_att_plot: a speaker model has no attention to plot; set to 0")
        args.num_att_plot = 0
    _merge_top_level(args)
    _rate_of_frontend(args)
    _check_batches(args)
    if args.train_dir is not None:
        _from_train_dir(args)
    if args.dev_dir is not None:
        _from_dev_dir(args)
    if args.dry_run and not args.train_data_path_and_name_and_type:
        args.spk_num = args.spk_num or _DRY_CLASSES
        _fill_schedule(args, _DRY_ITERATIONS)
        return
    if not args.train_data_path_and_name_and_type:
        raise UserError("no training data: give --train_dir dump/train (or --train_data_path_and_name_and_type)")
    if not (args.dev_dir or args.valid_data_path_and_name_and_type or args.dry_run):
        raise UserError("no dev data: give --dev_dir dump/dev, a directory with other speakers and a file 'trials'")
    speaker_of = _labels(args)
    _count_classes(args, speaker_of)
    _free_head(args)
    # Both are built again where they are used; here they say early what is wrong with them.
    task.build_preprocess_fn(args, train=True)
    if args.dev_dir or args.valid_data_path_and_name_and_type:
        _dev_set(args)
    if args.iterator_type in ("task", "category"):
        sampler = BalancedSampler(speaker_of, args.batch_size, args.drop_last_iter)
        iterations = args.num_iters_per_epoch or len(sampler)
        steps = max(1, iterations // args.accum_grad)
        total = steps * args.max_epoch
        print(f"train: {iterations} iterations per epoch, {args.max_epoch} epochs, {total} steps", flush=True)
        _fill_schedule(args, steps)


def _merge_top_level(args: argparse.Namespace) -> None:
    """Let the top-level options reach the preprocessor, as ESPnet's help says and its code does not."""
    if args.preprocessor != "spk":
        return
    conf = dict(args.preprocessor_conf)
    for key in ("target_duration", "sample_rate", "num_eval", "rir_scp"):
        top = getattr(args, key)
        if top is None:
            continue
        if key in conf and conf[key] != top:
            raise UserError(f"{key} is {top} at the top level and {conf[key]} in preprocessor_conf; keep one of them")
        conf[key] = top
    args.preprocessor_conf = conf


def _rate_of_frontend(args: argparse.Namespace) -> None:
    """Tell the mel frontend the rate of the crops; pretrained encoders know 16 kHz only."""
    rate_hz = args.preprocessor_conf.get("sample_rate", 16000)
    if args.frontend in PRETRAINED and rate_hz != 16000:
        raise UserError(f"sample_rate is {rate_hz}, but frontend {args.frontend} takes 16000; leave sample_rate out")
    if args.frontend == "melspec_torch":
        if rate_hz != 16000:
            args.frontend_conf = {"rate_hz": rate_hz, **args.frontend_conf}
        given = args.frontend_conf.get("rate_hz", 16000)
        if given != rate_hz:
            raise UserError(f"frontend_conf: rate_hz is {given}, but sample_rate {rate_hz}; leave rate_hz out")


def _check_batches(args: argparse.Namespace) -> None:
    """Refuse the ways to make batches that would end in one of ESPnet's tracebacks."""
    better = "leave both iterator_type and batch_type out: batches then balance the speakers"
    if args.iterator_type not in ("task", "category", "sequence", "none"):
        raise UserError(f"iterator_type {args.iterator_type} is not for speaker models; {better}")
    if args.iterator_type == "sequence" and args.batch_type not in ("unsorted", "sorted", "folded", "numel", "length"):
        raise UserError(f"batch_type {args.batch_type} does not go with iterator_type sequence; {better}")
    if args.iterator_type == "sequence" and args.batch_type == "folded" and len(args.fold_length) != 1:
        raise UserError(f"batch_type folded needs one fold_length, in samples; give --fold_length 80000, or {better}")


def _from_train_dir(args: argparse.Namespace) -> None:
    if args.train_data_path_and_name_and_type:
        raise UserError("--train_dir and --train_data_path_and_name_and_type exclude each other; give one")
    folder = DataDir(args.train_dir)
    if folder.has("segments"):
        raise UserError(
            f"{args.train_dir} has segments, which are cut by the format stage: "
            f"python -m espnet_ext.bin.format_data --in {args.train_dir} --out dump/train"
        )
    args.train_data_path_and_name_and_type = [
        (str(folder.path / "wav.scp"), "speech", "text"),
        (str(folder.path / "utt2spk"), "spk_labels", "text"),
    ]
    if folder.has("utt2num_samples") and not args.train_shape_file:
        args.train_shape_file = [str(folder.path / "utt2num_samples")]
    if args.spk2utt is None:
        if not folder.has("spk2utt"):
            path = folder.path / "spk2utt"
            raise UserError(f"{path}: the file does not exist; make it: {fix_command(path)}")
        args.spk2utt = str(folder.path / "spk2utt")


def _from_dev_dir(args: argparse.Namespace) -> None:
    if args.valid_data_path_and_name_and_type:
        raise UserError("--dev_dir and --valid_data_path_and_name_and_type exclude each other; give one")
    folder = DataDir(args.dev_dir)
    trials = folder.path / "trials" if args.dev_trials is None else args.dev_trials
    if not os.path.isfile(trials):
        raise UserError(
            f"{trials}: no trial list to validate on; make one: "
            f"python -m espnet_ext.bin.make_trials --data {args.dev_dir} --out {trials}"
        )
    args.dev_trials = str(trials)


def _labels(args: argparse.Namespace) -> dict[str, str]:
    """Return the speaker of every training utterance; those of a data directory all have audio."""
    speaker_of = read_scp(_labels_path(args))
    if args.train_dir is not None:
        folder = DataDir(args.train_dir)
        for have, lack, name in ((folder.wav_scp, speaker_of, "utt2spk"), (speaker_of, folder.wav_scp, "wav.scp")):
            missing = next((utt for utt in have if utt not in lack), None)
            if missing is not None:
                path = folder.path / name
                raise UserError(f"{path}: no line for utterance {missing!r}; mend it: {fix_command(path)}")
    return speaker_of


def _labels_path(args: argparse.Namespace) -> str:
    for path, name, _ in args.train_data_path_and_name_and_type:
        if name == "spk_labels":
            return path
    raise UserError("--train_data_path_and_name_and_type: no spk_labels; add dump/train/utt2spk,spk_labels,text")


def _count_classes(args: argparse.Namespace, speaker_of: dict[str, str]) -> None:
    if args.spk2utt is None:
        raise UserError("--spk2utt is missing: the file with one line per training speaker (--train_dir has one)")
    speakers = read_scp(args.spk2utt)
    if len(speakers) < 2:
        raise UserError(f"{args.spk2utt}: {len(speakers)} speaker; training needs at least 2")
    speeds = len(args.preprocessor_conf.get("speed_factors", [1.0]))
    classes = len(speakers) * speeds
    if args.spk_num is not None and args.spk_num != classes:
        raise UserError(
            f"spk_num is {args.spk_num}, but {args.spk2utt} has {len(speakers)} speakers"
            f"{f' at {speeds} speeds' if speeds > 1 else ''}, so it should be {classes}; leave it out"
        )
    args.spk_num = classes
    for utt, speaker in speaker_of.items():
        if speaker not in speakers:
            where = _labels_path(args)
            raise UserError(f"{args.spk2utt}: no line for speaker {speaker!r} of utterance {utt!r} in {where}")


def _free_head(args: argparse.Namespace) -> None:
    """Leave the classification head out of ``--init_param`` models that were trained on other speakers."""
    entries = []
    for entry in args.init_param:
        parts = entry.split(":")
        # ESPnet reads it again, and would run code that hides in it.
        state = load_tensors(parts[0])
        if len(parts) == 1:
            rows = {value.shape[0] for key, value in state.items() if key.startswith("loss.") and value.ndim == 2}
            wanted = args.spk_num * (args.loss_conf.get("K", 3) if args.loss == "aamsoftmax_sc_topk" else 1)
            if rows and rows != {wanted}:
                print(f"{entry}: head of {max(rows)} rows, {wanted} are needed; the head starts anew", flush=True)
                entry = f"{entry}:::loss"
        entries.append(entry)
    args.init_param = entries


def _fill_schedule(args: argparse.Namespace, steps: int) -> None:
    conf = args.scheduler_conf
    if args.scheduler == "epochs":
        conf.setdefault("iters_per_epoch", steps)
        conf.setdefault("num_epochs", args.max_epoch)
    elif args.scheduler == "cosineannealingwarmuprestarts" and "first_cycle_steps" in conf:
        epochs, total = conf["first_cycle_steps"] / steps, steps * args.max_epoch
        restarts = math.ceil(total / conf["first_cycle_steps"]) - 1
        print(
            f"scheduler: a cycle of {conf['first_cycle_steps']} steps is {epochs:.1f} epochs here, {restarts} "
            f"restart(s) in {total} steps ('scheduler: epochs' counts in epochs)",
            flush=True,
        )


def balanced_sampler(args: argparse.Namespace, share: tuple[int, int] = (0, 1)) -> BalancedSampler:
    """Return the sampler of a configuration: the speakers come from the ``spk_labels`` table."""
    return BalancedSampler(read_scp(_labels_path(args)), args.batch_size, args.drop_last_iter, args.seed, share)


def dev_factory(args: argparse.Namespace, share: tuple[int, int]) -> TrialIterFactory:
    """Return the validation data: the utterances of the trials, each embedded once."""
    paths, trials, num_samples, num_speakers = _dev_set(args)
    logging.info(f"[valid] {len(paths)} utterances, {num_speakers or 'unknown'} speakers, {len(trials)} trials")
    conf = args.preprocessor_conf
    dataset = DevUtterances(
        paths,
        conf.get("sample_rate", 16000),
        args.dev_max_s,
        conf.get("num_eval", 0),
        conf.get("target_duration", 3.0),
    )
    return TrialIterFactory(
        dataset, trials, num_speakers, num_samples, args.valid_batch_size or 8, args.num_workers, share
    )


def _dev_set(args: argparse.Namespace) -> tuple[dict[str, str], Trials, dict[str, int] | None, int | None]:
    """Return paths of the dev utterances, their trials, and (where known) their lengths and number of speakers."""
    num_samples, num_speakers = None, None
    if args.dev_dir is not None:
        folder = DataDir(args.dev_dir)
        trials = read_trials(args.dev_trials)
        trials.check(folder.wav_scp, args.dev_trials, args.dev_dir)
        paths = {utt: folder.wav_scp[utt] for utt in trials.utterances}
        if folder.has("utt2num_samples"):
            num_samples = folder.utt2num_samples
        if folder.has("utt2spk"):
            speakers = {folder.utt2spk[utt] for utt in trials.utterances if utt in folder.utt2spk}
            num_speakers = len(speakers)
            both = speakers.intersection(read_scp(args.spk2utt))
            if both:
                logging.warning(f"{len(both)} of {len(speakers)} dev speakers are also trained on ({min(both)}, …)")
    else:
        paths, trials = _espnet_trials(args)
    _check_labels(trials, args.dev_trials or args.valid_data_path_and_name_and_type[0][0])
    return paths, trials, num_samples, num_speakers


def _check_labels(trials: Trials, where: str) -> None:
    targets = int(trials.labels.sum())
    if targets in (0, len(trials)):
        raise UserError(f"{where}: {targets} of {len(trials)} trials are targets; an equal error rate needs both kinds")


def _espnet_trials(args: argparse.Namespace) -> tuple[dict[str, str], Trials]:
    """Read ESPnet's three files of trials: ``a*b path of a``, ``a*b path of b``, ``a*b 0|1``."""
    tables = {name: read_scp(path) for path, name, _ in args.valid_data_path_and_name_and_type}
    if not {"speech", "speech2", "spk_labels"} <= set(tables):
        raise UserError(
            "--valid_data_path_and_name_and_type: trials need speech, speech2 and spk_labels "
            f"(there are {', '.join(tables)}); --dev_dir dump/dev is simpler"
        )
    paths: dict[str, str] = {}
    enroll, test, labels = [], [], []
    for key, label in tables["spk_labels"].items():
        first, star, second = key.partition("*")
        if not star or label not in ("0", "1") or key not in tables["speech"] or key not in tables["speech2"]:
            raise UserError(f"trial {key!r} with label {label!r}: should be utt1*utt2, 0 or 1, and in all three files")
        paths[first], paths[second] = tables["speech"][key], tables["speech2"][key]
        enroll.append(first)
        test.append(second)
        labels.append(int(label))
    return paths, Trials(enroll, test, np.array(labels, dtype=np.int8))
