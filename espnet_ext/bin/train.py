"""Train a model of any registered task: ``python -m espnet_ext.bin.train spk --config conf/train_ecapa.yaml …``."""

import argparse
import re
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
    try:
        task.main(args=args)
    except UserError as error:
        raise UserError(_from_worker(str(error))) from None
    except RuntimeError as error:
        if "out of memory" in str(error):
            raise UserError(
                "the GPU has too little memory for this batch; lower batch_size or target_duration, raise accum_grad, "
                "or set autocast: bfloat16"
            ) from None
        raise
    return 0


def _from_worker(message: str) -> str:
    """Return the message itself where a data-loading process has wrapped it into its traceback."""
    if "Original Traceback" not in message:
        return message
    last = message.strip().splitlines()[-1]
    return re.sub(r"^[\w.]+Error: ", "", last)


if __name__ == "__main__":
    sys.exit(main())
