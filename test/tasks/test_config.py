"""What a user of plain ESPnet runs into (specs/espnet_spk.md, appendix) is impossible, or one line with exit code 2."""

import ast
import importlib.util
from pathlib import Path

import pytest
import yaml
from toy_speakers import small_options, write_corpus

from espnet_ext.bin.train import main
from espnet_ext.errors import UserError
from espnet_ext.tasks import config
from espnet_ext.tasks.choices import LazyChoices
from espnet_ext.tasks.spk import SpeakerTask


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder / "train", range(6), utterances=3)
    write_corpus(folder / "dev", range(6, 9), utterances=2)
    return folder


@pytest.fixture
def fail(corpus, tmp_path, capsys):
    """Run the training with more options and/or YAML, and return its one line."""

    def run(*more: str, text: str | None = None) -> str:
        options = small_options(corpus, tmp_path / "exp", *more)
        if text is not None:
            (tmp_path / "x.yaml").write_text(text)
            options += ["--config", str(tmp_path / "x.yaml")]
        assert main(options) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert lines[-1].startswith("train: error: ") and not any("Traceback" in line for line in lines)
        assert not list((tmp_path / "exp").glob("*.pth"))
        return lines[-1]

    return run


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("encodr: xvector\n", "x.yaml: unknown key 'encodr'; did you mean encoder?"),
        ("encoder: ecapa\n", "x.yaml: encoder: 'ecapa' is not one of"),
        ("encoder: ecapa\n", "did you mean ecapa_tdnn?"),
        ("pooling_conf: {a: 1}\n", "stats has no key 'a'"),
        ("optim_conf: {lrr: 3}\n", "optim_conf in"),
        ("optim_conf: {lrr: 3}\n", "did you mean lr?"),
        ("loss_conf: {margn: .2}\n", "aamsoftmax has no key 'margn'; did you mean margin?"),
        ("specaug: specaug\nspecaug_conf: {apply_time_wrap: true}\n", "did you mean apply_time_warp?"),
        ("preprocessor_conf: {speed_factor: [1]}\n", "did you mean speed_factors?"),
        ("scheduler: epochs\nscheduler_conf: {warmup_epoch: 1}\n", "did you mean warmup_epochs?"),
        ("margin_conf: {fina: 3}\n", "margin_conf: it has no key 'fina'; did you mean final?"),
        ("margin_conf: {initial: 3}\n", "'final' is missing"),
        ("num_att_plot: many\n", "x.yaml: num_att_plot: 'many' is not a whole number"),
        ("a: [\n", "x.yaml line 2: not valid YAML"),
        ("- 3\n", "should hold 'key: value' lines"),
        ("loss_conf: 3\n", "loss_conf should hold"),
        ("sample_rate: 8000\nfrontend_conf: {rate_hz: 16000}\n", "rate_hz is 16000, but sample_rate 8000"),
        ("sample_rate: 8000\nfrontend_conf: {f_max: 7600}\n", "f_max must be from f_min (20 Hz) to half"),
        ("frontend: null\n", "set input_size, or choose a frontend"),
        ("init_param: [/nowhere/model.pth]\n", "--init_param: /nowhere/model.pth does not exist"),
    ],
)
def test_mistakes_in_yaml(fail, text, says):
    assert says in fail(text=text)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--encodr", "x"], "unknown option --encodr; did you mean --encoder?"),
        (["--encoder", "x"], "invalid choice"),
        (["--batch_size"], "expected one argument"),
        (["--config", "/nowhere.yaml"], "--config /nowhere.yaml: no such file"),
        (["--train_dir", "/nowhere"], "/nowhere: no such data directory"),
        (["--dev_trials", "/nowhere"], "no trial list to validate on; make one: python -m"),
        (["--spk_num", "7"], "has 6 speakers, so it should be 6; leave it out"),
        (["--batch_size", "1"], "batch_size: 1 is too small"),
        (["--target_duration", "3", "--preprocessor_conf", "target_duration=6"], "keep one of them"),
        (["--preprocessor_conf", "noise_apply_prob=0.5"], "noise_info names no files"),
        (["--encoder_conf", "ndim=wide"], "ndim is 'wide'; it should be a whole number"),
        (["--output_dir", ""], "--output_dir is missing"),
        (["--iterator_type", "chunk"], "iterator_type chunk is not for speaker models; leave both"),
        (["--iterator_type", "sequence", "--batch_type", "catbel"], "does not go with iterator_type sequence"),
        (["--iterator_type", "sequence", "--batch_type", "folded"], "needs one fold_length"),
        (["--train_data_path_and_name_and_type", "/nowhere,speech,text"], "/nowhere does not exist"),
        (["--use_amp", "true", "--autocast", "bfloat16"], "exclude each other"),
    ],
)
def test_mistakes_on_the_command_line(fail, options, says):
    assert says in fail(*options)


def test_no_gpu(fail, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "--ngpu 1, but PyTorch finds none; give --ngpu 0 (the CPU)" in fail("--ngpu", "1")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("utt2spk", "s00-00 s00\n", "utt2spk: no line for utterance 's00-01'; mend it: python -m"),
        ("spk2utt", "s00 s00-00\ns01 s01-00\n", "no line for speaker 's02' of utterance"),
        ("segments", "a b 0 1\n", "cut by the format stage"),
    ],
)
def test_mistakes_in_the_data(fail, tmp_path, name, content, says):
    write_corpus(tmp_path / "train", range(3), utterances=2)
    (tmp_path / "train" / name).write_text(content)
    assert says in fail("--train_dir", str(tmp_path / "train"))


def test_trials_of_one_kind_and_unknown_utterances(fail, corpus, tmp_path):
    (tmp_path / "trials").write_text("s06-00 s06-01 target\n")
    assert "1 of 1 trials are targets" in fail("--dev_trials", str(tmp_path / "trials"))
    (tmp_path / "trials").write_text("s06-00 s06-01 target\ns06-00 nobody nontarget\n")
    assert "trials line 2: utterance 'nobody' is not in" in fail("--dev_trials", str(tmp_path / "trials"))


def test_broken_audio_is_named_from_the_reading_process(fail, tmp_path):
    data = write_corpus(tmp_path / "train", range(3), utterances=2)
    broken = data.wav_scp["s01-01"]
    with open(broken, "r+b") as file:
        file.truncate(3000)
    line = fail("--train_dir", str(tmp_path / "train"), "--num_workers", "1")
    assert f"{broken}: truncated" in line and line.count("error") == 1


def test_what_espnet_ignores_is_used(corpus, tmp_path, capsys):
    """Top-level target_duration and num_eval, the number of speakers, 1e-3 in YAML, and working defaults."""
    (tmp_path / "x.yaml").write_text("optim_conf: {lr: 1e-4}\nnum_eval: 3\nsample_rate: 8000\n")
    options = small_options(corpus, tmp_path / "exp", "--config", str(tmp_path / "x.yaml"), "--dry_run", "true")
    assert main(options) == 0
    saved = yaml.safe_load((tmp_path / "exp" / "config.yaml").read_text())
    assert saved["preprocessor_conf"] == {"target_duration": 0.5, "num_eval": 3, "sample_rate": 8000}
    assert saved["frontend_conf"]["rate_hz"] == 8000  # the mel bins lie where the audio is
    assert saved["spk_num"] == 6 and saved["optim_conf"]["lr"] == 1e-4 and saved["num_att_plot"] == 0
    assert saved["best_model_criterion"] == [["valid", "eer", "min"]] and saved["frontend"] == "melspec_torch"
    assert "2 iterations per epoch, 3 epochs, 6 steps" in capsys.readouterr().out


@pytest.mark.parametrize("frontend", ["huggingface", "s3prl"])
def test_pretrained_encoders_take_16_khz(corpus, tmp_path, capsys, frontend):
    options = small_options(corpus, tmp_path / "exp", "--frontend", frontend, "--sample_rate", "8000")
    at = options.index("--frontend_conf")
    assert main([*options[:at], *options[at + 2 :]]) == 2
    assert f"frontend {frontend} takes 16000" in capsys.readouterr().err


def test_a_schedule_in_steps_says_how_many_epochs_it_is(corpus, tmp_path, capsys):
    conf = "{first_cycle_steps: 4, warmup_steps: 1}"
    more = ["--scheduler", "cosineannealingwarmuprestarts", "--scheduler_conf", conf, "--dry_run", "true"]
    assert main(small_options(corpus, tmp_path / "exp", *more)) == 0
    assert "a cycle of 4 steps is 2.0 epochs here, 1 restart(s) in 6 steps" in capsys.readouterr().out


def test_espnets_own_lists_train_too(corpus, tmp_path):
    train, dev = corpus / "train", corpus / "dev"
    trials = [line.split() for line in (dev / "trials").read_text().splitlines()]
    paths = dict(line.split() for line in (dev / "wav.scp").read_text().splitlines())
    (tmp_path / "trial.scp").write_text("".join(f"{a}*{b} {paths[a]}\n" for a, b, _ in trials))
    (tmp_path / "trial2.scp").write_text("".join(f"{a}*{b} {paths[b]}\n" for a, b, _ in trials))
    (tmp_path / "label").write_text("".join(f"{a}*{b} {int(kind == 'target')}\n" for a, b, kind in trials))
    options = small_options(corpus, tmp_path / "exp", "--max_epoch", "1", "--spk2utt", str(train / "spk2utt"))
    del options[1:5]
    for part, entry in (
        ("train", f"{train}/wav.scp,speech,sound"),
        ("train", f"{train}/utt2spk,spk_labels,text"),
        ("valid", f"{tmp_path}/trial.scp,speech,sound"),
        ("valid", f"{tmp_path}/trial2.scp,speech2,sound"),
        ("valid", f"{tmp_path}/label,spk_labels,text"),
    ):
        options += [f"--{part}_data_path_and_name_and_type", entry]
    assert main(options) == 0
    assert (tmp_path / "exp" / "valid.eer.best.pth").exists()


def test_keys_behind_kwargs_are_followed():
    class Base:
        def __init__(self, size: int, rate: float = 1.0, **kwargs):
            pass

    class Child(Base):
        def __init__(self, input_size: int, depth: int = 2, **kwargs):
            super().__init__(**kwargs)

    class Open(Child):
        accepts_any_key = True

    assert config.accepted_keys(Child) == ["depth", "size", "rate"]
    assert config.accepted_keys(Open) is None


def test_every_choice_is_there():
    for choices in SpeakerTask.class_choices_list:
        for name, target in list(choices.classes.items()):
            if choices.name in ("frontend", "preprocessor") and isinstance(target, str):
                # Some import transformers and s3prl, which takes long; their own tests use them.
                module, _, attribute = target.partition(":")
                source = Path(importlib.util.find_spec(module).origin).read_text(encoding="utf-8")
                assert f"class {attribute}" in source, f"{choices.name}: {name}"
            else:
                assert isinstance(choices.get_class(name), type), f"{choices.name}: {name}"


def test_names_in_capitals_and_unknown_ones():
    """ESPnet's get_class tests the name in lower case and then looks it up as it stands: KeyError."""
    loss = next(choices for choices in SpeakerTask.class_choices_list if choices.name == "loss")
    assert loss.get_class("AAMSoftmax").__name__ == "AAMSoftmax"
    with pytest.raises(UserError, match="'arcface' is not one of aamsoftmax"):
        loss.get_class("arcface")


def test_a_missing_package_is_named():
    choices = LazyChoices("frontend", {"fancy": "no_such_package.frontend:Fancy"})
    with pytest.raises(UserError, match="'fancy' needs the package 'no_such_package'; pip install no_such_package"):
        choices.get_class("fancy")


def test_espnets_choices_are_there():
    ours = {choices.name: choices for choices in SpeakerTask.class_choices_list}
    # Read, not imported: that takes 15 s.
    source = Path(importlib.util.find_spec("espnet2.tasks.spk").origin).read_text(encoding="utf-8")
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        if getattr(call.func, "id", None) == "ClassChoices":
            words = {word.arg: word.value for word in call.keywords}
            theirs = {entry.arg for entry in words["classes"].keywords}
            assert theirs and theirs <= set(ours.pop(words["name"].value).classes)
    assert not ours
