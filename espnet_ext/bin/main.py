"""The command ``espnet_ext``: one name for everything in ``espnet_ext.bin``, imported only when it is called."""

import ast
import difflib
import importlib
import sys
from pathlib import Path

from espnet_ext.errors import cli

#: Order of the listing; a command that is in no group is listed at the end.
GROUPS = {
    "use a model": ("verify", "enroll", "identify", "embed", "export_onnx"),
    "train and measure": ("train", "score", "make_trials", "split_speakers", "compare_heads", "head_parameters"),
    "speakers without labels": (
        "train_ubm",
        "train_ivector_extractor",
        "extract_ivectors",
        "cluster",
        "choose_clusters",
        "ipl_report",
        "ipl_ablation",
        "ipl_seeds",
    ),
    "self-supervised encoders": (
        "layer_probe",
        "rank",
        "rank_study",
        "phone_recognition",
        "fit_units",
        "make_units",
        "score_units",
        "ssl_probe",
        "ssl_grid",
        "export_ssl",
    ),
    "publish": ("pack", "upload"),
    "data directories": (
        "format_data",
        "validate_data_dir",
        "fix_data_dir",
        "subset_data_dir",
        "phonemize",
        "align_phones",
    ),
}


def commands() -> dict[str, str]:
    """Every command and the first sentence of its description; nothing is imported."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem not in ("__init__", "main"):
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            found[path.stem] = text.split("\n\n")[0].replace("\n", " ").split(": ``python -m")[0].rstrip(".")
    return found


def listing() -> str:
    """The answer to ``espnet_ext --help``."""
    found = commands()
    grouped = {name for names in GROUPS.values() for name in names}
    groups = GROUPS | {"more": tuple(name for name in found if name not in grouped)}
    width = max(map(len, found))
    lines = ["usage: espnet_ext COMMAND [OPTIONS]      (espnet_ext COMMAND --help explains a command)"]
    for title, names in groups.items():
        there = [name for name in names if name in found]
        if there:
            lines += ["", f"{title}:", *(f"  {name:<{width}}  {found[name]}" for name in there)]
    return "\n".join(lines)


@cli
def main(argv=None):
    """Run one command with the options that follow it."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(listing())
        return 0
    if argv[0] == "--version":
        from espnet_ext import __version__

        print(__version__)
        return 0
    name = argv[0].replace("-", "_")
    found = commands()
    if name not in found:
        near = difflib.get_close_matches(name, found, n=1)
        hint = f"did you mean {near[0]}?" if near else "espnet_ext --help lists all"
        print(f"espnet_ext: error: no command {argv[0]!r}; {hint}", file=sys.stderr)
        return 2
    sys.argv[0] = f"espnet_ext {name}"  # what the command's own --help calls it
    return importlib.import_module(f"espnet_ext.bin.{name}").main(argv[1:])


if __name__ == "__main__":
    sys.exit(main())
