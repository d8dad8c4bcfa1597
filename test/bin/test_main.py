"""The command espnet_ext: lists everything without importing it, and finds what was meant."""

import subprocess
import sys
from pathlib import Path

import espnet_ext
from espnet_ext.bin import main as command


def test_every_command_is_listed_with_what_it_does(capsys):
    assert command.main(["--help"]) == 0
    shown = capsys.readouterr().out
    names = {path.stem for path in Path(command.__file__).parent.glob("*.py")} - {"__init__", "main"}
    for name in names:
        (line,) = [line for line in shown.splitlines() if line.startswith(f"  {name} ")]
        assert len(line.split()) > 3
    assert set(sum(command.GROUPS.values(), ())) <= names


def test_listing_imports_no_heavy_package():
    code = (
        "import sys; from espnet_ext.bin.main import main; main(['--help']); "
        "assert not {'torch', 'numpy', 'espnet2', 'transformers'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_command_runs_under_its_name(capsys):
    code = "import sys; from espnet_ext.bin.main import main; sys.exit(main(['export-onnx', '--help']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "usage: espnet_ext export_onnx" in done.stdout
    assert command.main(["verify", "a.wav", "b.wav", "--model", "no/where/here"]) == 2
    assert capsys.readouterr().err.startswith("verify: error: a.wav")


def test_a_misspelt_command_is_one_line(capsys):
    assert command.main(["verfy"]) == 2 and command.main(["xyz"]) == 2
    first, second = capsys.readouterr().err.strip().splitlines()
    assert "did you mean verify?" in first and "--help lists all" in second


def test_the_version_is_told(capsys):
    assert command.main(["--version"]) == 0 and capsys.readouterr().out.strip() == espnet_ext.__version__
