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
    if not (args.print_config or args.dry_run or args.multiprocessing_distributed or args.dist_rank):
        # Distributed processes log by themselves, as ESPnet has them do: the first one says what there is to say.
        from espnet_ext.train.console import start

        start(args.output_dir, args.log_level)
    try:
        task.main(args=args)
    except Exception as error:
        message = plain(error)
        if message is None:
            raise
        raise UserError(message) from None
    return 0


# What PyTorch says, and what it means to whoever started the training.
_PLAIN = (
    (
        r"out of memory|not enough memory|can't allocate memory",
        "too little memory for this batch; lower batch_size (raise accum_grad) or target_duration, or set autocast: "
        "bfloat16",
    ),
    (
        r"DataLoader worker .*(killed|exited)",
        "a process that reads the data was killed, most often for want of memory; lower num_workers, and give the "
        "same command again: training goes on from its last epoch",
    ),
    (
        r"Error\(s\) in loading state_dict",
        "init_param: these weights belong to a model of another shape; use the configuration they were trained with, "
        "or ignore_init_mismatch: true to take what fits",
    ),
)


def plain(error: Exception) -> str | None:
    """Return one line for what a user can mend, None for what is a fault of the program and deserves its traceback.

    A ``UserError`` from a data-loading or a distributed process arrives wrapped in the text of a traceback.
    """
    message = str(error).strip()
    if "Traceback" in message:
        found = re.match(r"(espnet_ext[\w.]+Error): (.*)", message.splitlines()[-1])
        if found:
            return found.group(2)
    elif isinstance(error, UserError):
        return message
    elif type(error).__name__ == "TypeCheckError":
        # ESPnet checks the arguments of its classes by typeguard: 'argument "ndim" (str) is not an instance of int'.
        return f"the configuration holds a value of the wrong kind: {message.splitlines()[0]}"
    return next((said for pattern, said in _PLAIN if re.search(pattern, message)), None)


if __name__ == "__main__":
    sys.exit(main())
