"""Writing a package: ESPnet's model-zoo zip, the same bytes from the same files, loadable on any machine."""

import platform
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_ext.errors import UserError
from espnet_ext.files import atomic_write
from espnet_ext.zoo.archive import SUFFIXES, sha256
from espnet_ext.zoo.config import portable
from espnet_ext.zoo.package import Package
from espnet_ext.zoo.tensors import load_tensors

#: Every entry carries this time, the earliest that a zip can; else two packings would differ.
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Packed:
    """A finished package."""

    path: Path
    sha256: str
    names: list[str]  # its files, in order


def pack(package: Package, out: str | Path, tag: str, extras: Sequence[str | Path] = ()) -> Packed:
    """Write a trained model as a zip that ``resolve`` here, ``espnet_model_zoo`` and ESPnet's ``unpack`` read.

    In it: ``meta.yaml`` (versions, time of the weights, checksums, which file is what), ``exp/<tag>/`` with the config
    (see ``portable``), the weights and their calibration, and at the top the ``extras`` (``RESULTS.md``,
    ``results.json``, pictures). The weights are read once, as anybody who loads the package would read them.

    Errors: ``UserError`` for weights or extras that are missing or of a kind that a package does not take.
    """
    import yaml

    load_tensors(package.weights)
    prefix = f"exp/{tag}"
    config, config_files = portable(package.config, prefix)
    files = {"model_file": (f"{prefix}/{package.weights.name}", package.weights)}
    files |= {key: (f"{prefix}/{path.name}", path) for key, path in sorted(package.files.items())}
    contents = dict(files.values()) | config_files | {Path(path).name: Path(path) for path in extras}
    for name, path in contents.items():
        if not path.is_file():
            raise UserError(f"{path}: no such file; the package was to hold it as {name}")
        if path.suffix.lower() not in SUFFIXES:
            raise UserError(f"{path}: a package takes no {path.suffix or 'such'} files, only {' '.join(SUFFIXES)}")
    meta = {
        **versions(),
        "timestamp": package.weights.stat().st_mtime,
        "files": {key: name for key, (name, _) in files.items()},
        "yaml_files": {"train_config": f"{prefix}/config.yaml"},
        "sha256": {name: sha256(path) for name, path in contents.items()},
    }
    texts = {"meta.yaml": meta, f"{prefix}/config.yaml": config}
    with atomic_write(out, "wb") as file, zipfile.ZipFile(file, "w") as archive:
        for name, value in texts.items():
            text = yaml.safe_dump(value, sort_keys=True, allow_unicode=True)
            archive.writestr(_entry(name), text, zipfile.ZIP_DEFLATED)
        for name, path in sorted(contents.items()):
            with open(path, "rb") as source, archive.open(_entry(name), "w", force_zip64=True) as target:
                while piece := source.read(1 << 20):
                    target.write(piece)
    return Packed(Path(out), sha256(out), [*texts, *sorted(contents)])


def versions() -> dict[str, str]:
    """What the model was packed with, as ESPnet's ``meta.yaml`` names it."""
    from importlib.metadata import version

    names = {name: version(name) for name in ("espnet", "espnet_ext", "torch")}
    return names | {"python": platform.python_version()}


def _entry(name: str) -> zipfile.ZipInfo:
    """An entry without anything of this machine or moment: fixed time, plain file, readable by all.

    Text is compressed; weights are not, since they shrink by a few per cent only and are then slow to read.
    """
    entry = zipfile.ZipInfo(name, _ZIP_TIME)
    entry.create_system = 3  # Unix, wherever this runs
    entry.external_attr = 0o100644 << 16
    entry.compress_type = zipfile.ZIP_DEFLATED if name.endswith((".yaml", ".json", ".md")) else zipfile.ZIP_STORED
    return entry
