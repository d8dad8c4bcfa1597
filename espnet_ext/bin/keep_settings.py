"""Keep a folder for one set of settings: note them at first, refuse others later.

espnet_ext keep_settings --file exp/ipl_a/settings.json num_clusters=40 --content train_config=conf/a.yaml
"""

import argparse
import json
import sys
import zlib
from pathlib import Path

from espnet_ext.errors import UserError, cli


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="what the folder stands for")
    parser.add_argument("--file", required=True, type=Path, help="where they are kept")
    parser.add_argument(
        "--content",
        action="append",
        default=[],
        metavar="KEY=PATH",
        help="a file whose content is a setting, by its checksum; repeatable",
    )
    parser.add_argument("--bind", type=Path, help="they bind once this file exists; until then new ones replace them")
    parser.add_argument("--mend", default="give the new ones a folder of their own", help="the end of the message")
    return parser


def checksum(path: str) -> int:
    """Return the CRC-32 of a file; weights of gigabytes are read in parts."""
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


@cli
def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    from espnet_ext.files import atomic_write

    now = dict(item.partition("=")[::2] for item in args.settings)
    for key, _, path in (item.partition("=") for item in args.content):
        try:
            now[key] = f"{path} ({checksum(path):08x})"
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; it is needed as {key}") from None
    if args.file.is_file() and (args.bind is None or args.bind.exists()):
        old = json.loads(args.file.read_text(encoding="utf-8"))
        keys = [*old, *(key for key in now if key not in old)]
        changes = [
            f"{key} was {old.get(key) or 'empty'}, is {now.get(key) or 'empty'}"
            for key in keys
            if old.get(key) != now.get(key)
        ]
        if changes:
            raise UserError(f"{args.file.parent} was made with other settings: {'; '.join(changes)}; {args.mend}")
        return
    with atomic_write(args.file) as file:
        json.dump(now, file, indent=1, ensure_ascii=False)
        file.write("\n")


if __name__ == "__main__":
    sys.exit(main())
