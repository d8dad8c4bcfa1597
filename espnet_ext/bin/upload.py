"""Publish a packed model on Hugging Face, with a model card; without --repo, or with --dry_run true, only show it.

espnet_ext upload --package ecapa.zip --repo me/my_ecapa
"""

import argparse
import sys

from espnet_ext.errors import UserError, cli


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", required=True, help="zip that `pack` wrote")
    parser.add_argument("--repo", default="", help="organisation/name on Hugging Face; made if it is not there")
    parser.add_argument("--dry_run", choices=["true", "false"], default="false", help="true: show what would be sent")
    parser.add_argument("--card", help="file for the model card of a dry run (default: it is printed)")
    parser.add_argument("--license", default="", help="SPDX name in lower case for the model card, e.g. cc-by-4.0")
    parser.add_argument("--private", choices=["true", "false"], default="false", help="true: a private repository")
    return parser


@cli
def main(argv=None):
    """Run the command."""
    args = get_parser().parse_args(argv)
    dry_run = args.dry_run == "true" or not args.repo
    if args.repo and args.repo.count("/") != 1:
        raise UserError(f"--repo {args.repo}: give organisation/name")
    from espnet_ext.zoo.hub import listing, publish

    repo = args.repo or "organisation/name"
    upload = publish(args.package, repo, args.license, args.private == "true", dry_run)
    print("\n".join(listing(upload)))
    if dry_run:
        if args.card:
            from espnet_ext.files import atomic_write

            with atomic_write(args.card) as file:
                file.write(upload.card)
        print(f"\nREADME.md: {args.card}" if args.card else f"\nREADME.md:\n\n{upload.card}")
        print("dry run: nothing was sent")
    else:
        print(f"sent: https://huggingface.co/{repo}")


if __name__ == "__main__":
    sys.exit(main())
