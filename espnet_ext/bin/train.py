"""Train a model of any registered task: ``python -m espnet_ext.bin.train spk --config conf/train_ecapa.yaml …``."""

import argparse
import sys
from collections.abc import Sequence

from espnet_ext.errors import UserError, cli


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the first argument; the task's own (ESPnet's) reads the rest."""
    parser = argparse.ArgumentParser(
        prog="train",
        description=__doc__,
        epilog="Options of a task: train TASK --help. All its keys with their values: train TASK --print_config.",
    )
    parser.add_argument("task", metavar="TASK", help="a registered task (spk, …) or module:Class")
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="…", help="the task's options, as in ESPnet")
    return parser


@cli
def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0].startswith("-"):
        from espnet_ext.tasks.registry import task_names

        parser = get_parser()
        parser.epilog += f" Tasks: {', '.join(task_names())}."
        parser.parse_args(argv)
    from espnet_ext.tasks.registry import get_task

    task = get_task(argv[0])
    from espnet_ext.tasks.config import parse_args

    args = parse_args(task, argv[1:])
    if not (args.print_config or args.dry_run or args.multiprocessing_distributed or args.dist_rank):
        # Distributed processes log by themselves, as ESPnet has them do: the first one says what there is to say.
        from espnet_ext.train.console import start

        start(args.output_dir, args.log_level)
    from espnet_ext.train.plain import plain

    try:
        task.main(args=args)
    except Exception as error:
        message = plain(error)
        if message is None:
            raise
        raise UserError(message) from None
    return 0


if __name__ == "__main__":
    sys.exit(main())
