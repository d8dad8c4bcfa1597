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
        help="one more system, for example MFCC statistics: vectors of the test utterances; cosine; may be repeated",
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
    if args.cohort and len(args.cohort) > 2:
        raise UserError(f"--cohort takes EMBEDDING_SCP and optionally UTT2SPK, got {len(args.cohort)} files")
    if len({words[0] for words in args.test}) < len(args.test):
        raise UserError("two --test sets have the same name; give each its own")
    info = dict(item.partition("=")[::2] for item in args.info)

    from espnet_ext.metrics.report import run_info
    from espnet_ext.spk import evaluation
    from espnet_ext.spk.backend import Backend
    from espnet_ext.spk.results import write_report
    from espnet_ext.spk.scoring import mean_embedding

    sets = [evaluation.read_set(name, scp, trials, args.rate_hz) for name, scp, *trials in args.test]
    floors = {name: evaluation.read_floor(name, files, sets) for name, *files in args.floor}
    dev = evaluation.read_set("dev", args.dev[0], args.dev[1:2], args.rate_hz) if args.dev else None
    subtract, distance = args.subtract_mean == "true", args.score == "distance"
    notes = []
    if args.cohort:
        table, speakers = evaluation.read_cohort(args.cohort[0], args.cohort[1] if args.cohort[1:] else None)
        for one in [*sets, *([dev] if dev else [])]:
            evaluation.check_disjoint(one, table, "cohort")
        backend = Backend.from_training(table, speakers, subtract, args.top_n, distance)
        kind = "utterances" if speakers is None else "speaker means"
        notes.append(f"AS-norm: top {min(args.top_n, len(backend.cohort))} of {len(backend.cohort)} {kind}.")
    else:
        backend = Backend(mean_embedding(dev.table.vectors) if dev and subtract else None, None, args.top_n, distance)
    if dev:
        for one in sets:
            evaluation.check_disjoint(one, dev.table, "development")
        trials = dev.lists[0]
        backend.fit(dev.prepare(backend), trials.enroll, trials.test, trials.labels, args.p_target)
        base = "AS-norm" if backend.default == "asnorm" else "raw"
        notes.append(
            f"Calibrated: from the {base} score (better on the development trials), on {len(trials.labels):,} "
            f"development trials of {len(set(dev.speaker_numbers()))} speakers. QMF fusion adds "
            f"{', '.join(backend.calibrations['qmf'].names[1:])}."
        )
    evaluated = []
    for one in sets:
        evaluated += evaluation.evaluate_set(
            one, backend, floors, args.out, args.p_target, args.num_bootstrap, args.seed
        )
    backend.save(args.out, args.p_target)
    info = run_info(args.seed, args.config, scoring_time_s=round(time.perf_counter() - start, 1), **info)
    print(write_report(args.out, args.title, evaluated, args.p_target, notes, info))


if __name__ == "__main__":
    sys.exit(main())
