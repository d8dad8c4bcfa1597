"""Score speaker-verification trials: raw, AS-norm, calibrated and fused, with a table, RESULTS.md and a DET curve."""

import argparse
import sys
import time
from pathlib import Path

from espnet_ext.errors import UserError, cli


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m espnet_ext.bin.score",
        description=__doc__,
        epilog="utt2spk and utt2num_samples are looked for beside each trial file. --dev adds the calibrated and fused "
        "systems, --cohort the AS-norm system; neither may share utterances with a test set.",
    )
    add = parser.add_argument
    add("--out", required=True, type=Path, help="folder for scores/, RESULTS.md, results.json, det.png, calibration")
    add(
        "--test",
        required=True,
        action="append",
        nargs="+",
        metavar="NAME EMBEDDING_SCP TRIALS",
        help="a test set: its name, its embeddings, its trial files (trials or trials.<condition>); may be repeated",
    )
    add("--dev", nargs="+", metavar="EMBEDDING_SCP TRIALS", help="development set for calibration and fusion")
    add("--cohort", nargs="+", metavar="EMBEDDING_SCP UTT2SPK", help="training set for AS-norm and the mean")
    add(
        "--floor",
        action="append",
        nargs="+",
        default=[],
        metavar="NAME EMBEDDING_SCP",
        help="one more system, for example MFCC statistics: vectors of the test utterances, scored by cosine; vectors "
        "of other utterances in the files (development) standardise the dimensions; may be repeated",
    )
    add("--score", choices=["cosine", "distance"], default="cosine", help="distance: ESPnet's multi-crop score")
    add("--subtract_mean", choices=["true", "false"], default="true", help="take off the mean of cohort, else dev")
    add("--top_n", type=int, default=300, help="cohort entries kept per utterance (default: 300)")
    add("--p_target", type=float, default=0.05, help="prior of a target: calibration, actDCF, threshold (default: .05)")
    add("--num_bootstrap", type=int, default=1000, help="speaker resamplings for intervals; 0: none (default: 1000)")
    add("--seed", type=int, default=0, help="of the resampling (default: 0)")
    add("--rate_hz", type=int, default=16000, help="sampling rate that utt2num_samples counts (default: 16000)")
    add("--config", help="training config, for the report")
    add("--title", default="Speaker verification", help="of the report")
    add("--info", action="append", default=[], metavar="KEY=VALUE", help="one more fact for the report; repeatable")
    return parser


@cli
def main(argv=None):
    start = time.perf_counter()
    args = get_parser().parse_args(argv)
    for option, words, least in (
        *(("--test", words, "NAME EMBEDDING_SCP TRIALS [TRIALS ...]") for words in args.test),
        *(("--floor", words, "NAME EMBEDDING_SCP [EMBEDDING_SCP ...]") for words in args.floor),
        *(("--dev", words, "EMBEDDING_SCP TRIALS") for words in [args.dev] if words),
    ):
        if len(words) < len(least.split(" [")[0].split()):
            raise UserError(f"{option} needs {least}, got only {' '.join(words)!r}")
    if args.dev and len(args.dev) > 2:
        raise UserError(f"--dev takes EMBEDDING_SCP and one TRIALS, got {len(args.dev)} files")
    if args.cohort and len(args.cohort) > 2:
        raise UserError(f"--cohort takes EMBEDDING_SCP and optionally UTT2SPK, got {len(args.cohort)} files")
    if len({words[0] for words in args.test}) < len(args.test):
        raise UserError("two --test sets have the same name; give each its own")
    info = dict(item.partition("=")[::2] for item in args.info)

    from espnet_ext.metrics.report import run_info
    from espnet_ext.spk.evaluation import evaluate_set, learn_backend, read_floor, read_set
    from espnet_ext.spk.results import write_report

    sets = [read_set(name, scp, trials, args.rate_hz) for name, scp, *trials in args.test]
    floors = {name: read_floor(name, files, sets) for name, *files in args.floor}
    dev = read_set("dev", args.dev[0], args.dev[1:], args.rate_hz) if args.dev else None
    backend, notes = learn_backend(
        sets,
        dev,
        args.cohort,
        subtract_mean=args.subtract_mean == "true",
        top_n=args.top_n,
        distance=args.score == "distance",
        p_target=args.p_target,
    )
    evaluated = []
    for one in sets:
        evaluated += evaluate_set(one, backend, floors, args.out, args.p_target, args.num_bootstrap, args.seed)
    backend.save(args.out, args.p_target)
    info = run_info(args.seed, args.config, scoring_time_s=round(time.perf_counter() - start, 1), **info)
    print(write_report(args.out, args.title, evaluated, args.p_target, notes, info))


if __name__ == "__main__":
    sys.exit(main())
