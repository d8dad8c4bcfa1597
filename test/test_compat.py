"""ESPnet and s3prl are imported without what they need not have, and without noise."""

import subprocess
import sys
import types

import pytest

from espnet_ext import compat


def test_espnet_is_imported_quickly_and_silently(tmp_path):
    """Deferred: adapters with all of transformers, attention plots with numba, and g2p_en with its downloads."""
    code = (
        "import sys, espnet_ext.tasks.spk\n"
        "left = {'transformers', 'numba', 'nltk', 'librosa'} & set(sys.modules)\n"
        "assert not left, left\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == answer.stderr == ""


def test_what_was_left_out_is_imported_at_its_first_call(tmp_path, monkeypatch, capsys):
    (tmp_path / "slow_part.py").write_text("print('Failed to import Flash Attention')\ndef work(x): return x + 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(compat, "_DEFERRED", {"slow_part": "work"})
    compat.prepare()
    stand_in = sys.modules["slow_part"]
    from slow_part import work

    assert stand_in.__doc__.startswith("Stands for")
    assert work(1) == 2 and work(2) == 3
    assert sys.modules.pop("slow_part") is not stand_in
    assert capsys.readouterr().out == ""


def test_torchaudio_has_what_s3prl_asks_for(monkeypatch):
    torchaudio = types.ModuleType("torchaudio")
    monkeypatch.setitem(sys.modules, "torchaudio", torchaudio)
    monkeypatch.delitem(sys.modules, "torchaudio.sox_effects", raising=False)
    compat.prepare_s3prl()
    torchaudio.set_audio_backend("sox_io")
    with pytest.raises(RuntimeError, match="no longer has sox effects"):
        sys.modules.pop("torchaudio.sox_effects").apply_effects_tensor(None)
