"""What a user can mend, said in one line instead of the traceback in which PyTorch wraps it."""

import re

from espnet_ext.errors import UserError

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
        r"process \d+ terminated with signal",
        "a training process was killed, most often for want of memory; lower batch_size or num_workers, and give the "
        "same command again: training goes on from its last epoch",
    ),
    # A process of ours has said what is wrong before it ended so: see Task.main_worker.
    (r"process \d+ terminated with exit code 2", "one of the training processes met the error above"),
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
