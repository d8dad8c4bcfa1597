"""recipe.sh, parse_options.sh and environment.sh: what somebody at a terminal sees of a template."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

TEMPLATE = """#!/usr/bin/env bash
# Count the words of a corpus.
set -euo pipefail
# begin options
# Counting:
nj=2                # parallel jobs
sets="dev test"     # sets to count
fail_in=""          # where to fail: run, job, plain
fast=false          # leave out the long ones
# end options
. "${MAIN_ROOT}/utils/recipe.sh"

for number in 1 2 3; do
    if will_run "${number}"; then echo "stage ${number} is going to run"; fi
done

if stage 1 data "corpus -> data/"; then
    mkdir -p data
    echo words > data/text
    if [ "${fail_in}" = run ]; then run python -c 'import sys; sys.exit("no such corpus")'; fi
    if [ "${fail_in}" = plain ]; then cp data/nothing data/more; fi
fi
if stage 2 count "data/ -> exp/"; then
    require data/text "stage 1 (data)"
    ${train_cmd} JOB=1:"${nj}" "${log_dir}/count.JOB.log" \\
        python -c 'import sys; print(sys.argv); sys.exit("job says no" if sys.argv[2] == "job" else 0)' JOB "${fail_in}"
fi
if stage 3 score "exp/ -> RESULTS.md"; then
    run python -c 'import sys; print("sets:", sys.argv[1])' "${sets}"
fi
"""


@pytest.fixture
def recipe(tmp_path):
    """A template in one folder with a space and a letter outside ASCII, a run.sh in another, called from a third."""
    template = tmp_path / "the tämplate" / "count.sh"
    folder = tmp_path / "my récipe"
    for path in (template, folder / "run.sh"):
        path.parent.mkdir()
    template.write_text(TEMPLATE)
    (folder / "run.sh").write_text(
        '#!/usr/bin/env bash\nset -euo pipefail\ncd "$(dirname "$0")"\n"../the tämplate/count.sh" --sets "dev ü" "$@"\n'
    )
    for path in (template, folder / "run.sh"):
        path.chmod(0o755)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    env = {**os.environ, "MAIN_ROOT": str(ROOT), "PYTHON": sys.executable, "LC_ALL": "C"}

    def call(*words):
        command = [str(folder / "run.sh"), *words]
        return subprocess.run(command, cwd=elsewhere, env=env, capture_output=True, text=True, timeout=60)

    call.folder, call.env, call.elsewhere = folder, env, elsewhere
    return call


def names(text: str) -> list[str]:
    """The stages that a run began."""
    return [line.split("== stage ")[1].split()[1].rstrip(":") for line in text.splitlines() if "== stage " in line]


def times(recipe) -> list[tuple[str, ...]]:
    """Stage, name and outcome of every line in stage_times.tsv."""
    rows = [line.split("\t") for line in (recipe.folder / "exp/stage_times.tsv").read_text().splitlines()]
    assert all(len(row) == 5 and float(row[3]) >= 0 for row in rows)
    return [(row[1], row[2], row[4]) for row in rows]


def test_all_stages_and_their_times(recipe):
    answer = recipe()
    assert answer.returncode == 0, answer.stderr
    assert names(answer.stderr) == ["data", "count", "score"]
    assert "sets: dev ü" in answer.stdout
    assert times(recipe) == [("1", "data", "done"), ("2", "count", "done"), ("3", "score", "done")]
    table = answer.stderr.split("wall time per stage")[1]
    assert [line.split()[1] for line in table.splitlines()[1:]] == ["data", "count", "score"]
    assert "sets: dev ü" in (recipe.folder / "exp/log/score.log").read_text()
    assert "# Ended (code 0)" in (recipe.folder / "exp/log/count.2.log").read_text()
    assert not list(recipe.elsewhere.iterdir())  # paths belong to the recipe, wherever it was called from


@pytest.mark.parametrize(
    ("words", "run"),
    [
        (["--stage", "2"], ["count", "score"]),
        (["--stage", "score"], ["score"]),
        (["--stop_stage", "count"], ["data", "count"]),
        (["--stage=2", "--stop-stage=2"], ["count"]),
        (["--skip_stages", "1 score"], ["count"]),
        (["--stage", "0", "--stop_stage", "100", "--skip_stages", "count"], ["data", "score"]),
    ],
)
def test_choosing_stages(recipe, words, run):
    (recipe.folder / "data").mkdir()
    (recipe.folder / "data/text").write_text("words\n")
    answer = recipe(*words)
    assert answer.returncode == 0, answer.stderr
    assert names(answer.stderr) == run
    numbers = [1 + ["data", "count", "score"].index(name) for name in run]
    assert [line for line in answer.stdout.splitlines() if "going" in line] == [
        f"stage {number} is going to run" for number in numbers
    ]


def test_dry_run_does_nothing(recipe):
    answer = recipe("--dry_run", "true", "--skip_stages", "count")
    assert answer.returncode == 0
    said = [line.partition(":")[0] for line in answer.stdout.splitlines()]
    assert said == ["would run stage 1 data", "would run stage 3 score"]
    assert not (recipe.folder / "exp").exists()


def test_help_is_the_option_block_and_the_stages(recipe):
    answer = recipe("--help")
    assert answer.returncode == 0 and not answer.stderr
    parts = ("Count the words of a corpus.", "Counting:", '(default: "dev test")', "jobs (default: 2)", "--stop_stage")
    for part in parts:
        assert part in answer.stdout
    assert "   2 count        data/ -> exp/" in answer.stdout
    assert not (recipe.folder / "exp").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stage", "scoer"], "count.sh: error: --stage: no stage 'scoer'; there are: 1 data, 2 count, 3 score"),
        (["--skip_stages", "1 x"], "count.sh: error: --skip_stages: no stage 'x'; there are: 1 data, 2 count, 3 score"),
        (["--stage", "4"], "count.sh: error: no stage is left to run with --stage 4"),
        (["--stage", "score", "--stop_stage", "data"], "count.sh: error: no stage is left to run"),
        (["--njobs", "3"], "count.sh: error: no option --njobs; see count.sh --help"),
        (["--nj"], "count.sh: error: --nj needs a value"),
        (["--nj", "many"], "count.sh: error: --nj takes a number, not 'many'"),
        (["--fast", "yes"], "count.sh: error: --fast is true or false, not 'yes'"),
        (["--PATH", "/x"], "count.sh: error: no option --PATH"),
        (["extra"], "count.sh: error: does not take 'extra'"),
        (["--cmd_backend", "sge"], "count.sh: error: --cmd_backend is local or slurm, not 'sge'"),
    ],
)
def test_a_mistake_is_one_line(recipe, words, message):
    answer = recipe(*words)
    assert answer.returncode == 2
    assert answer.stderr.startswith(message) and len(answer.stderr.splitlines()) == 1
    assert not (recipe.folder / "exp").exists()


def test_a_missing_file_names_its_stage(recipe):
    answer = recipe("--stage", "count")
    assert answer.returncode == 2
    assert "count.sh: error: data/text is missing or empty; stage 1 (data) makes it" in answer.stderr
    assert "failed in stage" not in answer.stderr  # one explanation is enough


@pytest.mark.parametrize(
    ("where", "stage", "code", "parts"),
    [
        ("run", "1 data", 1, ["no such corpus", "python -c 'import sys; sys.exit(", "exp/log/data.log"]),
        ("plain", "1 data", 1, ["cp data/nothing data/more"]),
        ("job", "2 count", 1, ["job says no", "job 2 failed with exit code 1, log exp/log/count.2.log", "JOB=1:2"]),
    ],
)
def test_a_failure_shows_stage_command_and_log(recipe, where, stage, code, parts):
    answer = recipe("--fail_in", where)
    assert answer.returncode == code
    assert f"count.sh: failed in stage {stage} with exit code {code}" in answer.stderr
    for part in parts:
        assert part in answer.stdout + answer.stderr
    assert times(recipe)[-1] == (*stage.split(), "failed")
    assert "score" not in names(answer.stderr)
    assert recipe().returncode == 0  # and nothing is in the way of the next run


def test_interrupt_and_kill(recipe):
    """Ctrl-C says where it was; kill -9 leaves nothing that stops the next run."""
    slow = recipe.folder.parent / "the tämplate" / "slow.sh"
    slow.write_text(TEMPLATE.replace("mkdir -p data\n", "mkdir -p data; sleep 30\n"))
    slow.chmod(0o755)
    for sign in (signal.SIGINT, signal.SIGKILL):
        process = subprocess.Popen(
            [slow], cwd=recipe.folder, env=recipe.env, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        while "== stage 1" not in process.stderr.readline():
            assert process.poll() is None
        time.sleep(0.2)
        os.killpg(process.pid, sign)
        text = process.communicate(timeout=20)[1]
        assert process.returncode != 0
        assert sign == signal.SIGKILL or "interrupted in stage 1 data" in text
    assert recipe().returncode == 0


@pytest.mark.parametrize("how", ["run", "${train_cmd} JOB=1:1 log/x.JOB.log"])
def test_a_killed_template_takes_its_command_along(recipe, how):
    """Otherwise a training whose run.sh was killed would write beside the one that resumes it."""
    if subprocess.run(["setpriv", "--pdeathsig", "keep", "true"], capture_output=True).returncode != 0:
        pytest.skip("setpriv of util-linux has no --pdeathsig here")
    slow = recipe.folder.parent / "the tämplate" / "slow.sh"
    command = how + ' python -c \'import os, time; open("pid", "w").write(str(os.getpid())); time.sleep(60)\''
    slow.write_text(TEMPLATE.replace("mkdir -p data\n", command + "\n"))
    process = subprocess.Popen(["bash", slow], cwd=recipe.folder, env=recipe.env, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    pid = recipe.folder / "pid"
    while not (pid.exists() and pid.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    state = Path("/proc") / pid.read_text() / "stat"
    while state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("path", sorted(ROOT.glob("egs2/*/*/run.sh")), ids=lambda path: "/".join(path.parts[-3:-1]))
def test_who_kills_run_sh_kills_the_template(path):
    """It becomes the template; as a child of run.sh that would go on without it."""
    commands = [line for line in path.read_text().splitlines() if "TEMPLATE/" in line]
    assert len(commands) == 1 and commands[0].startswith("exec ../../TEMPLATE/")


def test_train_cmd_can_be_replaced(recipe):
    answer = recipe("--train_cmd", "run.py --max-jobs-run 1")
    assert answer.returncode == 0, answer.stderr
    assert "run.py --max-jobs-run 1 JOB=1:2" in answer.stderr


def test_python_without_the_package_is_said(recipe, tmp_path):
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    recipe.env["PYTHON"] = str(fake)
    answer = recipe()
    assert answer.returncode == 2
    assert "has no espnet_ext" in answer.stderr and "tools/setup_venv.sh" in answer.stderr
