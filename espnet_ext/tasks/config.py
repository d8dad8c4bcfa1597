"""A training's configuration, checked before anything is built: a mistake is one line with the nearest right key.

Works for any ``AbsTask``. ESPnet prints its usage (600 lines) for a misspelt key, does not look at types and choices of
values in YAML, and notices a misspelt key inside ``*_conf`` late or, where a class takes ``**kwargs``, never.
"""

import argparse
import difflib
import inspect
import os
import re
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from espnet_ext.errors import UserError
from espnet_ext.train.rank import RankMonitor
from espnet_ext.train.schedule import MarginSchedule

# YAML 1.1 reads 1e-3 (without a dot) as text; nobody who writes it means text.
_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$")


def parse_args(task, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse ESPnet's options of ``task`` from command line and ``--config``; ``UserError`` for any mistake in them."""
    parser = task.get_parser()
    parser.error = lambda message: _fail(parser, message)
    config = _config_path(argv)
    if config is not None:
        _check_yaml(parser, config)
    args = parser.parse_args(argv)
    for key, value in vars(args).items():
        setattr(args, key, _numbers(value) if key.endswith("_conf") else value)
    if args.print_config:
        return args
    check_confs(task, args)
    check_files(args)
    check_gpus(args)
    if not args.output_dir:
        raise UserError("--output_dir is missing: the directory for the model and its log, for example exp/spk_ecapa")
    return args


def _config_path(argv: Sequence[str] | None) -> str | None:
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    finder.error = lambda message: _raise(UserError(message))
    return finder.parse_known_args(argv)[0].config


def _fail(parser: argparse.ArgumentParser, message: str) -> None:
    unknown = re.match(r"unrecognized arguments: (.*)", message)
    if unknown:
        options = [word for word in unknown.group(1).split() if word.startswith("--")]
        if options:
            name = options[0].split("=")[0]
            known = [option for action in parser._actions for option in action.option_strings]
            message = f"unknown option {name}{nearest(name, known)}"
    _raise(UserError(message.replace("\n", " ")))


def _raise(error: Exception) -> None:
    raise error


def nearest(word: str, known: Sequence[str]) -> str:
    """Return ``; did you mean …?`` for the most similar of ``known``, or nothing where none is similar."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def _check_yaml(parser: argparse.ArgumentParser, path: str) -> None:
    """Check that the file is YAML with known keys, and values of the right kind among the choices."""
    import yaml

    if not Path(path).is_file():
        raise UserError(f"--config {path}: no such file")
    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{where}: not valid YAML ({getattr(error, 'problem', None) or error})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: should hold 'key: value' lines")
    actions = {action.dest: action for action in parser._actions}
    for key, value in config.items():
        if key not in actions:
            raise UserError(f"{path}: unknown key {key!r}{nearest(str(key), list(actions))}")
        _check_value(actions[key], value, f"{path}: {key}")


def _check_value(action: argparse.Action, value: Any, where: str) -> None:
    if value is None:
        return
    if action.dest.endswith("_conf") and type(action).__name__ == "NestedDictAction" and not isinstance(value, dict):
        raise UserError(f"{where} should hold 'key: value' lines, not {value!r}")
    if action.type is int and not (isinstance(value, int) or _is_number(value, int)):
        raise UserError(f"{where}: {value!r} is not a whole number")
    if action.type is float and not (isinstance(value, (int, float)) or _is_number(value, float)):
        raise UserError(f"{where}: {value!r} is not a number")
    if action.choices is not None and value not in action.choices and str(value).lower() not in action.choices:
        choices = [str(choice) for choice in action.choices if choice is not None]
        raise UserError(f"{where}: {value!r} is not one of {', '.join(choices)}{nearest(str(value), choices)}")


def _is_number(value: Any, kind: type) -> bool:
    try:
        kind(value)
    except (TypeError, ValueError):
        return False
    return True


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_numbers(inner) for inner in value]
    return float(value) if isinstance(value, str) and _EXPONENT.match(value) else value


def check_confs(task, args: argparse.Namespace) -> None:
    """Check the keys of every ``*_conf`` against the class that will be made from it."""
    from espnet2.tasks.abs_task import optim_classes, scheduler_classes

    pairs = [(choices.name, choices.get_class(getattr(args, choices.name))) for choices in task.class_choices_list]
    pairs += [("optim", optim_classes.get(args.optim)), ("scheduler", scheduler_classes.get(args.scheduler))]
    for name, chosen in pairs:
        conf = getattr(args, f"{name}_conf", None) or {}
        if chosen is not None and conf:
            where = f"{name}_conf{f' in {args.config}' if args.config else ''}: {getattr(args, name)}"
            check_keys(conf, accepted_keys(chosen), where)
            check_types(conf, chosen, where)
    if getattr(args, "margin_conf", None):
        check_keys(args.margin_conf, accepted_keys(MarginSchedule), "margin_conf: it")
        check_types(args.margin_conf, MarginSchedule, "margin_conf")
        if "final" not in args.margin_conf:
            raise UserError("margin_conf: 'final' is missing, the margin (radians) at the end of the schedule")
    if getattr(args, "rank_conf", None):
        check_keys(args.rank_conf, [key for key in accepted_keys(RankMonitor) if key != "output_dir"], "rank_conf: it")
        check_types(args.rank_conf, RankMonitor, "rank_conf")


def check_keys(conf: dict, known: list[str] | None, where: str) -> None:
    """Raise ``UserError`` for the first key of ``conf`` that is not among ``known`` (None: any will do)."""
    for key in conf:
        if known is not None and key not in known:
            raise UserError(f"{where} has no key {key!r}{nearest(str(key), known)} (keys: {', '.join(known)})")


def check_types(conf: dict, chosen: type, where: str) -> None:
    """Raise ``UserError`` for the first value of ``conf`` that is not of the kind that a class of ours declares."""
    if not chosen.__module__.startswith("espnet_ext."):
        return  # what others declare is not always what they take
    for level in chosen.__mro__:
        own = vars(level).get("__init__")
        hints = typing.get_type_hints(own) if inspect.isfunction(own) else {}
        for key, value in conf.items():
            if key in hints and not _fits(value, hints[key]):
                raise UserError(f"{where}: {key} is {value!r}; it should be {_kind_name(hints[key])}")


def _fits(value: Any, kind: Any) -> bool:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, one) for one in inner)
    if origin in (Sequence, list, tuple):
        return isinstance(value, (list, tuple)) and all(_fits(one, inner[0]) for one in value if inner)
    if kind in (int, float):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and (kind is float or isinstance(value, int) or value.is_integer())
    return isinstance(value, kind) if kind in (bool, str, type(None)) else True


def _kind_name(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "nothing"}
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(_kind_name, inner))
    if origin in (Sequence, list, tuple):
        return f"a list, each {_kind_name(inner[0])}" if inner else "a list"
    return names.get(kind, str(kind))


def accepted_keys(chosen: type) -> list[str] | None:
    """Return the keyword arguments of a class; None where any will do.

    ``**kwargs`` is followed to the classes above; where it ends in a class that would swallow anything, a key that
    nobody names is still a mistake. A class that really takes any key says so by ``accepts_any_key = True``.
    """
    if getattr(chosen, "accepts_any_key", False):
        return None
    keys: list[str] = []
    for level in chosen.__mro__:
        if "__init__" not in vars(level):
            continue
        try:
            parameters = list(inspect.signature(level.__init__).parameters.values())[1:]
        except ValueError:
            return None
        keys += [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    # Filled in by the task or the framework, never by YAML.
    hidden = {"input_size", "params", "optimizer", "nout", "nclasses", "train", "last_epoch", "self"}
    hidden |= {"folders", "geometry"}
    return [key for key in dict.fromkeys(keys) if key not in hidden]


def check_files(args: argparse.Namespace) -> None:
    """Check that every file of ESPnet's data options and ``--init_param`` is there."""
    for option in ("train_data_path_and_name_and_type", "valid_data_path_and_name_and_type"):
        for path, name, _ in getattr(args, option):
            _exists(path, f"--{option} ({name})")
    for option in ("train_shape_file", "valid_shape_file"):
        for path in getattr(args, option):
            _exists(path, f"--{option}")
    for entry in args.init_param:
        _exists(entry.split(":")[0], "--init_param")


def _exists(path: str, option: str) -> None:
    if not os.path.exists(path):
        raise UserError(f"{option}: {path} does not exist; check the path, or run the stage that makes it")


def check_gpus(args: argparse.Namespace) -> None:
    """Check that the machine has ``--ngpu`` GPUs that PyTorch can use."""
    if args.ngpu > 0:
        import torch

        there = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if there < args.ngpu:
            found = "PyTorch finds none" if there == 0 else f"this machine has {there}"
            raise UserError(
                f"--ngpu {args.ngpu}, but {found}; give --ngpu {there} ({'the CPU' if there == 0 else 'all of them'}), "
                "or look at nvidia-smi and python -m torch.utils.collect_env"
            )
