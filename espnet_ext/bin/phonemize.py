"""Write the phones of every word of a data directory's text, by espeak-ng, without times: utt2pronunciation.

espnet_ext phonemize --data data/train --voice en-us
"""

import argparse
import sys

from espnet_ext.errors import UserError, cli
from espnet_ext.logs import log_to_screen


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, nargs="+", help="data directories with text")
    parser.add_argument("--voice", default="en-us", help="language of espeak-ng (default: en-us)")
    return parser


@cli
def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    log_to_screen()
    from espnet_ext.audio.espeak import Espeak
    from espnet_ext.datadir import DataDir, write_scp
    from espnet_ext.datadir.pronunciation import TABLE, format_pronunciation

    espeak = Espeak(rate_hz=22050)  # its own rate: the sound is not wanted
    for data in map(DataDir, args.data):
        if not data.has("text"):
            raise UserError(f"{data.path}/text is missing: phones are made from what is said")
        table = {}
        for utt, text in data.text.items():
            try:
                words = espeak.pronounce(text, args.voice)
            except UserError as error:
                raise UserError(f"{data.path}/text: {utt}: {error}") from None
            if not words:
                raise UserError(f"{data.path}/text: {utt}: espeak-ng finds no phone in {text!r}")
            table[utt] = format_pronunciation(words)
        write_scp(data.path / TABLE, table)
        kinds = {phone for line in table.values() for phone in line.split()} - {"|"}
        count = sum(len(line.split()) for line in table.values()) - sum(line.count("|") for line in table.values())
        print(f"{data.path / TABLE}: {len(table)} utterances, {count:,} phones of {len(kinds)} kinds")


if __name__ == "__main__":
    sys.exit(main())
