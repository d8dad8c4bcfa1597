"""Tell which person of a gallery speaks in a recording, or that it is none of them.

espnet_ext identify --model MODEL --gallery team.json unknown.wav
"""

import argparse
import sys
from pathlib import Path

from espnet_ext.errors import cli
from espnet_ext.options import add_job_options


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", nargs="+", metavar="AUDIO", help="recordings, one person each")
    parser.add_argument("--model", required=True, help="the model that the gallery was made with")
    parser.add_argument("--gallery", required=True, help="JSON file that `espnet_ext enroll` wrote")
    parser.add_argument(
        "--threshold", type=float, help="known from here on, of the LLR (of the score where there is no calibration)"
    )
    parser.add_argument("--top", type=int, default=3, help="how many people to list per recording")
    add_job_options(parser, "device")
    parser.add_argument("--json", action="store_true", help="print one JSON object per recording")
    return parser


@cli
def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    import json
    from dataclasses import asdict

    from espnet_ext.inference.clips import check_files
    from espnet_ext.inference.gallery import Gallery
    from espnet_ext.inference.spk import SpeakerEmbedder

    check_files(args.audio)
    embedder = SpeakerEmbedder.from_pretrained(args.model, args.device)
    embedder.decision = embedder.decision.with_threshold(args.threshold)
    gallery = Gallery.read(Path(args.gallery), embedder)
    for audio, vector in zip(args.audio, embedder.embed(args.audio), strict=True):
        found = gallery.identify(vector)
        best = found.ranking[: args.top]
        if args.json:
            print(json.dumps({"audio": audio, "name": found.name, "ranking": [asdict(one) for one in best]}))
            continue
        ranking = ", ".join(
            f"{one.name} {one.score:.3f}" + ("" if one.llr is None else f" (LLR {one.llr:.1f})") for one in best
        )
        answer = found.name or ("unknown" if found.threshold is not None else "? (no threshold; give --threshold)")
        print(f"{audio}: {answer}   [{ranking}]")


if __name__ == "__main__":
    sys.exit(main())
