"""Error rate of every layer of a pretrained encoder on speaker trials, nothing trained: a table and a curve.

espnet_ext layer_probe --model hf:facebook/hubert-base-ls960 --data dump/dev --mean_from dump/train --out exp/probe
"""

import argparse
import sys
import time
from pathlib import Path

from espnet_ext.errors import UserError, cli
from espnet_ext.logs import log_to_screen
from espnet_ext.options import BOOL, add_job_options, check_device, parse_layers


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", required=True, metavar="SPEC", help="the encoder: hf:FOLDER_OR_ID, torchaudio:PIPELINE, s3prl:NAME, "
        "or a path: Hugging Face folder, checkpoint, experiment or package of ours")  # fmt: skip
    add("--data", required=True, help="data directory (wav.scp, optional segments, utt2spk for the intervals)")
    add("--trials", help="trial list (default: trials in --data)")
    add("--mean_from", help="data directory of other speech, labels unused: adds the mean-subtracted columns")
    add("--mean_utterances", type=int, default=2000, help="of --mean_from, evenly spread (default: 2000)")
    add("--out", required=True, type=Path, help="folder for RESULTS.md, results.json, layers.png and the statistics")
    add("--layers", help="only these, for example 0,4,-1 (default: all)")
    add("--floor", choices=["mfcc", "none"], default="mfcc", help="a row to compare with (default: mfcc)")
    add("--max_window_s", type=float, default=60.0, help="longer audio is encoded in equal windows (default: 60)")
    add("--max_batch_s", type=float, help="seconds of padded audio per batch (CPU: 15, GPU: 120)")
    add("--num_bootstrap", type=int, default=200, help="speaker resamplings for intervals; 0: none (default: 200)")
    add("--seed", type=int, default=0, help="of the resampling (default: 0)")
    add_job_options(parser, "device", "skip_broken", "allow_commands")
    return parser


@cli
def main(argv=None):
    """Run the command."""
    start = time.perf_counter()
    args = get_parser().parse_args(argv)
    log_to_screen()
    if args.mean_utterances < 2 or args.num_bootstrap < 0 or args.num_bootstrap == 1:
        raise UserError("--mean_utterances has to be at least 2, --num_bootstrap 0 or at least 2")
    if args.max_window_s <= 0 or (args.max_batch_s is not None and args.max_batch_s <= 0):
        raise UserError("--max_window_s and --max_batch_s must be above 0")
    layers = parse_layers(args.layers)

    from espnet_ext.datadir import DataDir, read_trials
    from espnet_ext.inference import layer_report
    from espnet_ext.inference.floor import MfccFloor
    from espnet_ext.inference.layer_probe import choose, probe_set, spans, spread
    from espnet_ext.metrics.report import run_info

    data = DataDir(args.data, BOOL[args.allow_commands])
    trials_file = Path(args.trials or data.path / "trials")
    trials = read_trials(trials_file)
    trials.check(data.utterances, trials_file, str(data.path))
    sets = {"test": choose(data, trials.utterances)}
    if args.mean_from:
        other = DataDir(args.mean_from, BOOL[args.allow_commands])
        sets["mean"] = choose(other, spread(other.utterances, args.mean_utterances))
        shared = set(sets["test"].utterances) & set(sets["mean"].utterances)
        if shared:
            raise UserError(f"--mean_from {args.mean_from}: {min(shared)!r} is in the trials too; give other speech")

    encode, sizes, names = _encoder(args, layers)
    systems = [(names, sizes, encode, "layers")]
    if args.floor == "mfcc":
        systems.insert(0, ([layer_report.MFCC], [40], lambda: (MfccFloor.model_id, MfccFloor), "mfcc"))
    utt2spk = data.utt2spk if data.has("utt2spk") else {}
    results, notes = [], []
    for names, sizes, make, folder in systems:
        tables = {
            name: _extract(args, one, args.out / "statistics" / folder / name, make) for name, one in sets.items()
        }
        probed, lost = probe_set(tables["test"], sum(sizes), trials, utt2spk, tables.get("mean"))
        if lost:
            notes.append(f"{lost} of {len(trials)} trials are left out: their audio is broken (statistics/*/*/broken)")
        for name, span in zip(names, spans(sizes), strict=True):
            results += probed.measure(*span, {"layer": name}, args.num_bootstrap, args.seed)
    targets = int(trials.labels.sum())
    notes = [f"Trials: {trials_file}, {len(trials):,} ({targets:,} target).", *dict.fromkeys(notes)]
    if args.mean_from:
        notes.append(f"Mean and deviation: {len(sets['mean'].utterances)} utterances of {args.mean_from}, unlabelled.")
    info = run_info(args.seed, model=args.model, wall_time_s=round(time.perf_counter() - start, 1))
    print(layer_report.write_report(args.out, args.model, results, notes, info))


def _encoder(args, layers):
    """Return what makes (id, embedder), the length of every layer's vector, and the layers' names."""
    from espnet_ext.inference.zero_shot import open_zero_shot

    options = {"max_window_s": args.max_window_s, "batch_s": args.max_batch_s}
    model_id, embedder, chosen = open_zero_shot(args.model, layers, check_device(args.device), **options)
    return lambda: (model_id, lambda: embedder), embedder.sizes, [str(layer) for layer in chosen]


def _extract(args, data, out, make):
    from espnet_ext.inference.extract import Extraction, run

    model_id, embedder = make()
    return run(Extraction(data, out, model_id, skip_broken=BOOL[args.skip_broken]), embedder)


if __name__ == "__main__":
    sys.exit(main())
