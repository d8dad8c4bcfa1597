"""A training config made fit to travel: no folder of this machine, no training data, the files that a model needs."""

from pathlib import Path
from typing import Any

from espnet_ext.zoo.package import walk

#: Settings that say what was trained on and where, and mean nothing elsewhere; they are emptied.
TRAINING_KEYS = frozenset(
    (
        *("config", "output_dir", "init_param", "pretrain_path", "deepspeed_config", "dist_init_method"),
        *("train_dir", "dev_dir", "dev_trials", "spk2utt", "rir_scp"),
        *("train_data_path_and_name_and_type", "valid_data_path_and_name_and_type"),
        *("train_shape_file", "valid_shape_file"),
        *("wandb_project", "wandb_id", "wandb_entity", "wandb_name"),
    )
)


def portable(config: dict[str, Any], prefix: str) -> tuple[dict[str, Any], dict[str, Path]]:
    """A config that loads on another machine, and the files that have to go with it, by their path in the package.

    Training-only keys are emptied. In the ``*_conf`` of model parts a string that names an existing file (statistics
    of a normalisation, say) becomes ``<prefix>/<name>`` and the file is listed; settings of the preprocessor that hold
    paths are left out; any other absolute path is emptied.
    """
    files: dict[str, Path] = {}
    result: dict[str, Any] = {}
    for key, value in config.items():
        if key in TRAINING_KEYS:
            result[key] = [] if isinstance(value, list) else {} if isinstance(value, dict) else None
        elif key == "preprocessor_conf" and isinstance(value, dict):
            result[key] = {name: item for name, item in value.items() if not any(map(_is_path, _strings(item)))}
        else:
            result[key] = _travel(value, prefix, files if key.endswith("_conf") else None)
    return result, files


def _strings(value: Any) -> list[str]:
    return [leaf for _, leaf in walk(value) if isinstance(leaf, str)]


def _is_path(text: str) -> bool:
    return "/" in text or text.endswith((".scp", ".ark")) or Path(text).is_file()


def _travel(value: Any, prefix: str, files: dict[str, Path] | None) -> Any:
    if isinstance(value, dict):
        return {key: _travel(item, prefix, files) for key, item in value.items()}
    if isinstance(value, list):
        return [_travel(item, prefix, files) for item in value]
    if not isinstance(value, str) or not value:
        return value
    path = Path(value)
    if files is not None and path.is_file():
        name = f"{prefix}/{path.name}"
        for number in range(2, 1000):
            if files.setdefault(name, path) == path:
                break
            name = f"{prefix}/{path.stem}_{number}{path.suffix}"
        return name
    return "" if path.is_absolute() or value.startswith("~") else value
