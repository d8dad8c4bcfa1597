"""Export a speaker model to ONNX: waveform in, embedding out, any length, checked against the model.

espnet_ext export_onnx --model exp/spk_train_ecapa --out ecapa.onnx
"""

import argparse
import sys
from pathlib import Path

from espnet_ext.errors import UserError, cli


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="needs the extra packages of pip install 'espnet_ext[onnx]'",
    )
    parser.add_argument("--model", required=True, help="experiment folder, package (.zip) or Hugging Face tag")
    parser.add_argument("--out", required=True, help="the .onnx to write")
    return parser


@cli
def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    if not args.out.endswith(".onnx"):
        raise UserError(f"--out {args.out}: give a name that ends in .onnx")
    from espnet_ext.inference.export import export_onnx
    from espnet_ext.inference.spk import SpeakerEmbedder

    embedder = SpeakerEmbedder.from_pretrained(args.model)
    made = export_onnx(embedder, Path(args.out))
    rate = f"{embedder.rate_hz} Hz"
    takes = f"(batch, samples) at {rate}" if made.takes_waveform else "(batch, frames, features) of the frontend"
    print(f"{made.path}: input {takes}, output embedding; 1 - cosine to the model at most {made.deviation:.1e}")


if __name__ == "__main__":
    sys.exit(main())
