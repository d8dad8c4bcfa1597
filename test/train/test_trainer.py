"""Training from end to end on a toy corpus: the EER chooses the model, a kill loses nothing, the margin rises."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from toy_speakers import small_options, write_corpus
from two_processes import train_by_two

from espnet_ext.bin.train import main


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy speakers ä")
    write_corpus(folder / "train", range(12))
    write_corpus(folder / "dev", range(12, 16), utterances=3)
    return folder


@pytest.fixture(scope="module")
def trained(corpus):
    """One uninterrupted training of three epochs."""
    output = corpus / "exp" / "whole"
    assert main(small_options(corpus, output)) == 0
    return output


def final_weights(output) -> dict:
    return torch.load(output / "3epoch.pth", weights_only=True)


def same(one: dict, two: dict) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_the_dev_eer_chooses_the_model(trained):
    stats = torch.load(trained / "checkpoint.pth", weights_only=False)["reporter"]["stats"]
    eers = {epoch: values["valid"]["eer"] for epoch, values in stats.items()}
    assert len(eers) == 3 and all(0 <= value <= 100 for value in eers.values())
    best = min(eers, key=lambda epoch: (eers[epoch], epoch))
    assert eers[int(os.readlink(trained / "valid.eer.best.pth").removesuffix("epoch.pth"))] == eers[best]
    assert stats[1]["valid"]["n_spk"] == 4 and stats[1]["valid"]["n_trials"] == 12 * 11 / 2
    assert stats[3]["train"]["loss"] < stats[1]["train"]["loss"]
    assert (trained / "valid.eer.ave_3best.pth").is_file()


def test_the_saved_configuration_builds_the_model(trained):
    from espnet_ext.tasks.spk import SpeakerTask

    assert yaml.safe_load((trained / "config.yaml").read_text())["spk_num"] == 12
    model, _ = SpeakerTask.build_model_from_file(str(trained / "config.yaml"), str(trained / "valid.eer.best.pth"))
    assert same(dict(model.state_dict()), torch.load(trained / "valid.eer.best.pth", weights_only=True))


def test_the_same_seed_gives_the_same_weights(corpus, trained):
    assert main(small_options(corpus, corpus / "exp" / "again")) == 0
    assert same(final_weights(trained), final_weights(corpus / "exp" / "again"))


def test_killed_in_the_middle_and_given_again(corpus, trained):
    output = corpus / "exp" / "killed"
    command = [sys.executable, "-m", "espnet_ext.bin.train", *small_options(corpus, output)]
    training = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while not (output / "checkpoint.pth").exists() and time.monotonic() < end:
            assert training.poll() is None, "the training ended before it could be killed"
            time.sleep(0.002)
    finally:
        training.send_signal(signal.SIGKILL)
        training.wait()
    assert not (output / "3epoch.pth").exists()
    (output / ".checkpoint.pth.x1.tmp").write_bytes(b"half")  # what a kill during a save leaves
    assert main(small_options(corpus, output)) == 0
    assert not list(output.glob(".*"))
    assert same(final_weights(trained), final_weights(output))
    stats = torch.load(output / "checkpoint.pth", weights_only=False)["reporter"]["stats"]
    assert sorted(stats) == [1, 2, 3]


def test_killed_between_checkpoint_and_model(corpus, trained, capsys):
    """ESPnet would later look for the epoch's model in vain when it averages the best."""
    output = corpus / "exp" / "between"
    assert main(small_options(corpus, output, "--max_epoch", "2")) == 0
    (output / "2epoch.pth").unlink()
    for link in ("latest.pth", "valid.eer.best.pth"):
        (output / link).unlink()
    assert main(small_options(corpus, output)) == 0
    assert (output / "2epoch.pth").exists() and same(final_weights(trained), final_weights(output))
    assert (output / "valid.eer.best.pth").exists() and (output / "latest.pth").exists()


def test_a_finished_training_is_left_alone(corpus, trained):
    before = (trained / "checkpoint.pth").stat().st_mtime_ns
    assert main(small_options(corpus, trained)) == 0
    assert (trained / "checkpoint.pth").stat().st_mtime_ns == before


def test_another_model_in_the_same_folder_is_one_line(corpus, trained, capsys):
    assert main(small_options(corpus, trained, "--projector_conf", "output_size=9", "--max_epoch", "4")) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "another model" in last and "--output_dir" in last


def test_a_finished_training_is_not_taken_for_one_with_other_settings(corpus, trained, capsys):
    """ESPnet keeps the old model and writes the new settings beside it."""
    before = (trained / "config.yaml").read_bytes()
    for changed in (["--optim_conf", "lr=0.5"], ["--encoder", "ecapa_tdnn", "--encoder_conf", "{ndim: 16}"]):
        assert main(small_options(corpus, trained, *changed)) == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert "holds a finished training with other settings" in said and "--spk_tag" in said and " was " in said
    assert main(small_options(corpus, trained, "--num_workers", "1", "--log_level", "WARNING")) == 0
    # It may go on for longer, but not with a model of another shape.
    assert main(small_options(corpus, trained, "--max_epoch", "4", "--projector_conf", "output_size=9")) == 2
    settings = yaml.safe_load((trained / "config.yaml").read_text())
    assert {**settings, "num_workers": 0, "log_level": "INFO"} == yaml.safe_load(before)


def test_an_unfinished_training_goes_on_with_other_settings_and_says_so(corpus, tmp_path, capfd):
    command = [sys.executable, "-m", "espnet_ext.bin.train"]
    for more in (["--max_epoch", "1"], ["--max_epoch", "2", "--batch_size", "8"]):
        subprocess.run([*command, *small_options(corpus, tmp_path / "exp", *more)], check=True)
    assert "goes on with other settings: batch_size was 12, is 8" in capfd.readouterr().err


def test_two_trainings_in_one_folder(corpus, tmp_path, capsys):
    from espnet_ext.files import only_writer

    script = "import sys, time\nfrom espnet_ext.files import only_writer\n"
    script += "with only_writer(sys.argv[1]):\n    print(flush=True)\n    time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script, tmp_path / "exp"], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        assert main(small_options(corpus, tmp_path / "exp")) == 2
        assert f"another process ({other.pid} on " in capsys.readouterr().err
        other.kill()
    with only_writer(tmp_path / "exp"):  # kill -9 leaves nothing in the way
        pass
    assert [path.name for path in (tmp_path / "exp").iterdir()] == ["train.log"]


def test_weights_of_another_shape_are_one_line(corpus, trained, tmp_path, capsys):
    more = ["--init_param", str(trained / "3epoch.pth"), "--projector_conf", "output_size=9"]
    assert main(small_options(corpus, tmp_path / "exp", *more)) == 2
    assert "init_param: these weights belong to a model of another shape" in capsys.readouterr().err
    (tmp_path / "cut.pth").write_bytes((trained / "3epoch.pth").read_bytes()[:5000])
    assert main(small_options(corpus, tmp_path / "exp", "--init_param", str(tmp_path / "cut.pth"))) == 2
    assert "cut.pth: is no whole weights file" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["", ":encoder:encoder"])
def test_weights_with_code_in_them_are_refused(corpus, tmp_path, capsys, part):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "run"),)

    torch.save({"encoder.layers.0.weight": Hostile()}, tmp_path / "x.pth")
    assert main(small_options(corpus, tmp_path / "exp", "--init_param", f"{tmp_path / 'x.pth'}{part}")) == 2
    assert "would run code on loading" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_margin_follows_its_schedule(corpus, monkeypatch):
    from espnet_ext.spk.losses import AAMSoftmax

    seen = []
    plain = AAMSoftmax.set_margin
    monkeypatch.setattr(AAMSoftmax, "set_margin", lambda self, margin: seen.append(margin) or plain(self, margin))
    conf = "{final: 0.2, start_epoch: 1, end_epoch: 2, shape: linear}"
    assert main(small_options(corpus, corpus / "exp" / "margin", "--margin_conf", conf)) == 0
    assert seen[1:] == pytest.approx([0, 0, 0, 0, 0, 0.05, 0.1, 0.15, 0.2, 0.2, 0.2, 0.2])


def test_fine_tuning_with_another_head_bf16_and_speeds(corpus, trained, capsys):
    output = corpus / "exp" / "tuned"
    more = ["--init_param", str(trained / "valid.eer.best.pth"), "--autocast", "bfloat16", "--max_epoch", "1"]
    more += ["--preprocessor_conf", "speed_factors=[1.0, 0.9, 1.1]", "--num_iters_per_epoch", "2"]
    more += ["--scheduler", "epochs", "--scheduler_conf", "warmup_epochs=0.5", "--optim_conf", "lr=0"]
    assert main(small_options(corpus, output, *more)) == 0
    out = capsys.readouterr().out
    assert "the head starts anew" in out and "2 iterations per epoch" in out
    tuned, start = (torch.load(p / "valid.eer.best.pth", weights_only=True) for p in (output, trained))
    assert tuned["loss.weight"].shape[0] == 36
    changed = [
        k for k in start if "running" not in k and "num_batches" not in k and not torch.equal(tuned[k], start[k])
    ]
    assert changed == ["loss.weight"]


def test_a_full_disk_is_said_plainly(corpus, tmp_path, capsys):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        assert main(small_options(corpus, small / "exp", "--encoder_conf", "{ndim: 96}")) == 2
        assert not list((small / "exp").glob("*.pth"))
    finally:
        subprocess.run(["umount", str(small)], check=True)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "no space left" in last and "checkpoint.pth" in last


def test_torch_compile_keeps_the_names(monkeypatch, corpus, trained):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(type(self).__name__))
    assert main(small_options(corpus, corpus / "exp" / "compiled", "--compile", "true")) == 0
    assert compiled == ["XvectorEncoder"]
    assert same(final_weights(trained), final_weights(corpus / "exp" / "compiled"))


def test_two_processes_train_and_validate_together(corpus, tmp_path):
    train_by_two(small_options(corpus, tmp_path / "exp", "--max_epoch", "1"))
    stats = torch.load(tmp_path / "exp" / "checkpoint.pth", weights_only=False)["reporter"]["stats"][1]
    assert stats["valid"]["n_trials"] == 66 and 0 <= stats["valid"]["eer"] <= 100


@pytest.mark.gpu
def test_on_a_gpu_in_bf16_compiled(corpus, tmp_path):
    more = ["--ngpu", "1", "--autocast", "bfloat16", "--compile", "true"]
    assert main(small_options(corpus, tmp_path / "exp", *more)) == 0
    stats = torch.load(tmp_path / "exp" / "checkpoint.pth", weights_only=False)["reporter"]["stats"]
    assert stats[3]["train"]["loss"] < stats[1]["train"]["loss"] and stats[3]["valid"]["eer"] <= 50


def test_the_loss_is_reported_whole_when_gradients_are_accumulated(corpus, tmp_path):
    """ESPnet divides the loss in place, and the number in its log shrinks with accum_grad."""
    losses = []
    for accum_grad in ("1", "4"):
        more = ["--max_epoch", "1", "--optim_conf", "lr=0", "--accum_grad", accum_grad]
        assert main(small_options(corpus, tmp_path / accum_grad, *more)) == 0
        states = torch.load(tmp_path / accum_grad / "checkpoint.pth", weights_only=False)
        losses.append(states["reporter"]["stats"][1]["train"]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
