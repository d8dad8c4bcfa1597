"""Add a person to a gallery: the average voice of some recordings, kept in a small JSON file.

espnet_ext enroll --model MODEL --gallery team.json --name Ada ada1.wav ada2.wav
"""

import argparse
import sys
from pathlib import Path

from espnet_ext.errors import cli
from espnet_ext.options import add_job_options


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", nargs="+", metavar="AUDIO", help="recordings of this person")
    parser.add_argument("--model", required=True, help="experiment folder, package (.zip) or Hugging Face tag")
    parser.add_argument("--gallery", required=True, help="JSON file; made if it is not there")
    parser.add_argument("--name", required=True, help="whose voice it is; recordings are added to those already there")
    parser.add_argument("--replace", action="store_true", help="forget this person's earlier recordings")
    add_job_options(parser, "device")
    return parser


@cli
def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    from espnet_ext.inference.clips import check_files
    from espnet_ext.inference.gallery import Gallery
    from espnet_ext.inference.spk import SpeakerEmbedder

    path = Path(args.gallery)
    check_files(args.audio)
    embedder = SpeakerEmbedder.from_pretrained(args.model, args.device)
    gallery = Gallery.read(path, embedder) if path.exists() else Gallery.of(embedder)
    if args.replace:
        gallery.people.pop(args.name, None)
    person = gallery.enroll(args.name, embedder.embed(args.audio))
    gallery.write(path)
    print(f"{path}: {args.name} ({person.recordings} recordings), {len(gallery.people)} people")


if __name__ == "__main__":
    sys.exit(main())
