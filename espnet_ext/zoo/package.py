"""A trained model by tag, zip or folder: one way to find its config, weights and everything packed with them."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from espnet_ext.errors import UserError
from espnet_ext.zoo.archive import safe_name, sha256, unpack
from espnet_ext.zoo.yaml_file import load_yaml

#: Checkpoints of an experiment folder, the one to take first. ESPnet makes them links to the epoch's file.
CHECKPOINTS = (
    *(f"valid.{criterion}.{kind}.pth" for criterion in ("eer", "loss_m", "loss") for kind in ("best", "ave")),
    "latest.pth",
)
#: What may lie beside the weights in an experiment folder, and goes into a package when it does.
COMPANIONS = {"calibration": "calibration.json", "embedding_mean": "embedding_mean.npy", "cohort": "cohort.npy"}
#: What `score` writes for people to read; it goes to the top of a package.
REPORTS = ("RESULTS.md", "results.json", "det.png")
#: Settings of a frontend that make s3prl or a loader read a file or an address of the package author's choice.
_FOREIGN_KEYS = ("path_or_url", "trust_remote_code", "ckpt")


@dataclass(frozen=True)
class Package:
    """A trained model on this machine."""

    name: str  # what the user asked for: tag, zip or folder
    root: Path  # folder that holds everything
    config: dict[str, Any]  # training config; paths of packed files lead into `root`
    weights: Path
    files: dict[str, Path] = field(default_factory=dict)  # the rest by its key: calibration, embedding_mean, cohort, …

    @property
    def sha256(self) -> str:
        """SHA-256 of the weights."""
        return sha256(self.weights)

    @property
    def identity(self) -> str:
        """Changes whenever the model's output could: the checksums of the weights and of the config."""
        relative = replace_strings(self.config, lambda text: text.removeprefix(f"{self.root}{os.sep}"))
        text = json.dumps(relative, sort_keys=True, default=str)
        return f"{self.sha256} {hashlib.sha256(text.encode()).hexdigest()}"


def cache_folder() -> Path:
    """Where unpacked zips are kept: ``ESPNET_EXT_CACHE``, else ``espnet_ext`` in the user's cache folder."""
    if "ESPNET_EXT_CACHE" in os.environ:
        return Path(os.environ["ESPNET_EXT_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "espnet_ext"


def resolve(source: str | Path, weights: str | None = None) -> Package:
    """Find a model.

    ``source`` is an experiment folder (``config.yaml`` and ``*.pth``), a weights file in one, an unpacked package or a
    zip (ESPnet's or ours), or a Hugging Face tag ``organisation/name[@revision]``. ``weights`` names the checkpoint of
    an experiment folder; without it the best by EER is taken. Downloads and unpacked zips are cached.

    Errors: ``UserError`` where nothing is there, or where a package is broken or hostile.
    """
    path = Path(source)
    if path.is_dir():
        return read_package(path, str(source)) if (path / "meta.yaml").is_file() else read_experiment(path, weights)
    if path.is_file() and path.suffix == ".zip":
        return read_package(unpack(path, cache_folder() / sha256(path)), str(source))
    if path.is_file() and path.suffix in (".pth", ".pt"):
        return read_experiment(path.parent, path.name)
    if path.exists():
        raise UserError(f"{source}: is no model; give a folder with config.yaml, a .zip, a .pth or a Hugging Face tag")
    if str(source).count("/") == 1 and not str(source).startswith((".", "/", "~")) and path.suffix != ".zip":
        from espnet_ext.zoo.hub import download

        return resolve_download(download(str(source)), str(source))
    raise UserError(f"{source}: no such model; give a folder with config.yaml, a .zip, a .pth or a Hugging Face tag")


def resolve_download(path: Path, name: str) -> Package:
    """Open what a download gave: a zip, or a folder with ``meta.yaml``."""
    if path.is_dir():
        return read_package(path, name)
    return read_package(unpack(path, cache_folder() / sha256(path)), name)


def read_experiment(folder: Path, weights: str | None = None) -> Package:
    """Open the folder that a training of the user's own wrote."""
    config = load_yaml(folder / "config.yaml")
    there = sorted(path.name for path in folder.glob("*.pth") if path.name != "checkpoint.pth")
    names = [weights] if weights else [name for name in (*CHECKPOINTS, *there[:1]) if name in there]
    if not names or not (folder / names[0]).is_file():
        missing = f"no {weights}" if weights else "no checkpoint"
        raise UserError(f"{folder}: {missing}; it has {', '.join(there) or 'no .pth file: train the model first'}")
    files = {key: folder / name for key, name in COMPANIONS.items() if (folder / name).is_file()}
    return Package(str(folder), folder, config, folder / names[0], files)


def read_files(config: str | Path, weights: str | Path) -> Package:
    """Open a config and weights that lie anywhere; calibration and the like are taken from beside the weights."""
    folder = Path(weights).parent
    files = {key: folder / name for key, name in COMPANIONS.items() if (folder / name).is_file()}
    return Package(str(weights), folder, load_yaml(config), Path(weights), files)


def read_package(root: Path, name: str) -> Package:
    """Open an unpacked package: ``meta.yaml`` says what is what, and everything it names has to be there, inside."""
    meta = load_yaml(root / "meta.yaml") if (root / "meta.yaml").is_file() else None
    if meta is None:
        raise UserError(f"{name}: refused, has no meta.yaml, so it is no ESPnet model package")
    tables = {key: meta.get(key) for key in ("files", "yaml_files")}
    for key, table in tables.items():
        if not isinstance(table, dict) or not all(isinstance(value, str) for value in table.values()):
            raise UserError(f"{name}: refused, {key} in its meta.yaml is no table of paths")
    paths = {key: root / safe_name(value, name) for table in tables.values() for key, value in table.items()}
    for key, path in paths.items():
        if not path.is_file():
            raise UserError(f"{name}: refused, {key} ({path.relative_to(root)}) is missing from the package")
    config = _of_task(tables["yaml_files"], "train_config", name)
    weights = _of_task(tables["files"], "model_file", name)
    settings = load_yaml(paths[config])
    for trail, value in walk(settings):
        if trail[-1] in _FOREIGN_KEYS and value not in (None, "", False, [], {}):
            raise UserError(f"{name}: refused, {'.'.join(map(str, trail))} in its config would load {value!r}")
    packed = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    settings = replace_strings(settings, lambda text: str(root / text) if text in packed else text)
    files = {key: path for key, path in paths.items() if key not in (config, weights)}
    return Package(name, root, settings, paths[weights], files)


def _of_task(table: dict[str, str], ending: str, name: str) -> str:
    """The key of a table that names the config or the weights: ``model_file``, or ESPnet's ``spk_model_file``."""
    keys = [key for key in table if key == ending] or [key for key in table if key.endswith(ending)]
    if not keys:
        raise UserError(f"{name}: refused, its meta.yaml names no {ending}")
    return keys[0]


def walk(value: Any, trail: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    """Every leaf of nested dicts and lists with the keys that lead to it."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from walk(item, (*trail, key))
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from walk(item, (*trail, index))
    else:
        yield trail or ("",), value


def replace_strings(value: Any, change) -> Any:
    """A copy of nested dicts and lists with ``change`` applied to every string value."""
    if isinstance(value, dict):
        return {key: replace_strings(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [replace_strings(item, change) for item in value]
    return change(value) if isinstance(value, str) else value
