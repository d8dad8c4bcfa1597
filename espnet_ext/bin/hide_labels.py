"""Copy a data directory without its speakers: audio, segments and sessions only, each utterance its own speaker.

espnet_ext hide_labels --in data/train --out data/train_unlabelled

What trains on the copy cannot have seen a speaker label, a gender or a transcript.
"""

import argparse
import sys
from pathlib import Path

from espnet_ext.errors import UserError, cli

#: What is known of unlabelled audio. A session is where an utterance was recorded; it is reported, never trained on.
KEPT = ("wav.scp", "segments", "utt2session", "utt2num_samples", "reco2num_samples")


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in", dest="source", required=True, help="data directory; it needs no utt2spk")
    parser.add_argument("--out", required=True, help="data directory to write")
    return parser


@cli
def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    from espnet_ext.datadir import DataDir, read_scp
    from espnet_ext.datadir.operations import replace_tables

    source, out = Path(args.source), Path(args.out)
    if out.exists() and source.exists() and out.samefile(source):
        raise UserError(f"{out}: the destination is also the source")
    data = DataDir(source)
    tables = {name: read_scp(source / name) for name in KEPT if data.has(name)}
    if "wav.scp" not in tables:
        raise UserError(f"{source / 'wav.scp'}: the file does not exist; the stage data makes it")
    tables["utt2spk"] = {utt: utt for utt in data.utterances}
    for name in ("utt2session", "utt2num_samples"):
        missing = next((utt for utt in tables["utt2spk"] if utt not in tables.get(name, tables["utt2spk"])), None)
        if missing is not None:
            raise UserError(f"{source / name}: no line for utterance {missing!r}; mend it or remove the table")
    replace_tables(out, tables, trials=True)
    print(f"{out}: {len(data.utterances)} utterances, no speakers")


if __name__ == "__main__":
    sys.exit(main())
