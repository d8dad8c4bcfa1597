"""Tell whether two recordings are of the same speaker: score, log-likelihood ratio, yes or no.

espnet_ext verify --model MODEL one.wav two.mp3
"""

import argparse
import sys

from espnet_ext.errors import cli
from espnet_ext.options import add_job_options


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", nargs=2, metavar="AUDIO", help="recordings of any rate, length and channel count")
    parser.add_argument("--model", required=True, help="experiment folder, package (.zip) or Hugging Face tag")
    parser.add_argument(
        "--threshold", type=float, help="yes from here on, of the LLR (of the score where the model has no calibration)"
    )
    add_job_options(parser, "device")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


@cli
def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    from dataclasses import asdict

    from espnet_ext.inference.clips import check_files
    from espnet_ext.inference.spk import SpeakerEmbedder

    check_files(args.audio)
    embedder = SpeakerEmbedder.from_pretrained(args.model, args.device)
    embedder.decision = embedder.decision.with_threshold(args.threshold)
    result = embedder.verify(*args.audio)
    if args.json:
        import json

        print(json.dumps(asdict(result)))
        return
    print(f"score        {result.score:7.4f}   cosine, from -1 to 1")
    if result.llr is None:
        print("LLR                -   the model brings no calibration")
    else:
        print(f"LLR          {result.llr:7.2f}   natural log of how much likelier one speaker is than two")
    if result.same_speaker is None:
        print("same speaker       ?   the model brings no threshold; give one with --threshold")
    else:
        kind = "score" if result.llr is None else "LLR"
        print(f"same speaker {'yes' if result.same_speaker else 'no':>7s}   yes from {kind} {result.threshold:.4g} on")


if __name__ == "__main__":
    sys.exit(main())
