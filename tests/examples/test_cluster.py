"""The examples for clusters: their scripts run with substitutes for Slurm's commands, their manifests meet the schemas.

What this machine cannot show: a real Slurm, a real Kubernetes, several machines, NCCL.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from fixtures import Files
from ranks import command, workers
from torch.distributed.run import get_args_parser

from fastlift.commands.base_config import base_config
from fastlift.commands.parsing import parse
from fastlift.commands.train import Train

CLUSTER = Path(__file__).resolve().parents[2] / "examples" / "cluster"
SCRIPTS = {path.name: path.read_text(encoding="utf-8") for path in sorted(CLUSTER.glob("*.sh"))}
MANIFESTS = list(yaml.safe_load_all((CLUSTER / "kubernetes.yaml").read_text(encoding="utf-8")))
SERVICE, JOB = MANIFESTS
(CONTAINER,) = JOB["spec"]["template"]["spec"]["containers"]
# The oldest that the manifest names, the newest that is known.
KUBERNETES = ("1.31", kubernetes_validate.latest_version())
BASH = shutil.which("bash") or "bash"

# Slurm's commands as far as slurm.sh uses them: tasks are local processes in a group each, srun ends when all have.
SUBSTITUTES = {
    "scontrol": """
        echo "scontrol $*" >> "$SLURM_TEST/calls"
        if [[ $1 == show ]]; then for ((i = 0; i < SLURM_JOB_NUM_NODES; i++)); do echo localhost; done; fi""",
    "scancel": """
        echo "scancel $*" >> "$SLURM_TEST/calls"
        for task in $(cat "$SLURM_TEST/tasks"); do kill -s "${1#--signal=}" -- "-$task"; done""",
    "srun": """
        echo "srun $*" >> "$SLURM_TEST/calls"
        trap 'echo "srun: forcing job termination" >&2; kill -KILL -- $(sed s/^/-/ "$SLURM_TEST/tasks")' TERM
        while [[ $1 == --* ]]; do shift; done
        set -m; : > "$SLURM_TEST/tasks"; code=0
        for ((i = 0; i < SLURM_JOB_NUM_NODES; i++)); do
          "$@" 2> "$SLURM_TEST/node-$i.err" & tasks+=($!); echo $! >> "$SLURM_TEST/tasks"
        done
        for task in "${tasks[@]}"; do wait "$task" || code=$?; done
        exit "$code" """,
}


def write_commands(folder: Path, **texts: str) -> Path:
    """A folder of commands for PATH; ``torchrun`` is this environment's, whether its own folder is on PATH or not."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {"torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"', **texts}.items():
        (folder / name).write_text(f"#!{BASH}\n{text}\n")
        (folder / name).chmod(0o755)
    return folder


@contextmanager
def started(script: str, arguments: list[str], commands: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A script of the examples, with these commands in front of PATH; its processes end with the test."""
    path = {"PATH": f"{commands}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1", **environment}
    process = subprocess.Popen(
        [BASH, str(CLUSTER / script), *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=os.environ | path,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=60)


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str], patience: float = 300.0) -> Any:
    """What a function gives as soon as it is something; fails where the process ends before, or nothing comes."""
    deadline = time.monotonic() + patience
    while not (found := what()):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def checkpoints(run: Path) -> list[str]:
    """Their names, the newest last."""
    return sorted(path.name for path in run.glob("checkpoints/*.safetensors"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_pass_shellcheck(name: str) -> None:
    shellcheck(SCRIPTS[name])
    with pytest.raises(AssertionError, match="SC2086"):
        shellcheck(SCRIPTS[name] + "\ncat $HOME\n")


def shellcheck(script: str, shell: str = "bash") -> None:
    binary = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([binary, "-s", shell, "-"], input=script, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def torchrun_words(text: str) -> list[str]:
    """The words behind ``torchrun`` of the one call in a script."""
    (call,) = re.findall(r"torchrun (--.*)$", text.replace("\\\n", " "), re.MULTILINE)
    words = shlex.split(call)
    return words[: next((i for i, word in enumerate(words) if word in ("&", "2>&$messages")), len(words))]


@pytest.mark.parametrize("text", [*SCRIPTS.values(), CONTAINER["args"][0]], ids=[*SCRIPTS, "kubernetes.yaml"])
def test_torchrun_and_fastlift_know_every_flag(text: str) -> None:
    """The script's own flags; where it takes more from its caller, those of its header."""
    words = torchrun_words(text)
    header = re.findall(r"^#   (?:sbatch|PROCESSES=8) examples/cluster/\w+\.sh (.*)$", text, re.MULTILINE)
    if "$@" in words:
        place = words.index("$@")
        words[place : place + 1] = shlex.split(header[0])
    numbers = ("--nnodes", "--nproc-per-node")
    words = [
        "8" if word.startswith("$") and before in numbers else word
        for before, word in zip(["", *words], words, strict=False)
    ]
    taken = get_args_parser().parse_args(words)
    assert (taken.module, taken.training_script, taken.training_script_args[0]) == (True, "fastlift", "train")
    arguments = taken.training_script_args[1:]
    asked = parse(Train, arguments, "train", Train(settings=base_config(arguments)))
    assert asked.resume == "auto"
    assert asked.output is not None, "machines would choose names of their own"
    assert taken.max_restarts > 0


@pytest.mark.parametrize("version", KUBERNETES)
def test_manifests_meet_the_schemas(version: str) -> None:
    for manifest in MANIFESTS:
        kubernetes_validate.validate(manifest, version, strict=True)
    wrong = copy.deepcopy(JOB)
    wrong["spec"]["completionModes"] = wrong["spec"].pop("completionMode")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, version, strict=True)


def test_the_parts_of_the_manifest_fit_each_other() -> None:
    """What no schema says: names, numbers and times that stand in several places."""
    spec, pod = JOB["spec"], JOB["spec"]["template"]["spec"]
    taken = get_args_parser().parse_args(torchrun_words(CONTAINER["args"][0]))
    host, port = taken.rdzv_endpoint.split(":")
    assert spec["completionMode"] == "Indexed"
    assert host == f"{JOB['metadata']['name']}-0.{SERVICE['metadata']['name']}"
    assert pod["subdomain"] == SERVICE["metadata"]["name"]
    assert SERVICE["spec"]["clusterIP"] == "None"
    assert SERVICE["spec"]["selector"] == {"batch.kubernetes.io/job-name": JOB["metadata"]["name"]}
    assert [one["port"] for one in SERVICE["spec"]["ports"]] == [int(port)]
    assert int(taken.nnodes) == spec["completions"] == spec["parallelism"]
    assert taken.nproc_per_node == CONTAINER["resources"]["limits"]["nvidia.com/gpu"]
    assert pod["restartPolicy"] == "Never", "podFailurePolicy needs it"
    assert {
        rule["onExitCodes"]["containerName"] for rule in spec["podFailurePolicy"]["rules"] if "onExitCodes" in rule
    } == {CONTAINER["name"]}
    assert pod["terminationGracePeriodSeconds"] > 30, "torchrun's own patience"
    assert {one["name"] for one in CONTAINER["volumeMounts"]} == {one["name"] for one in pod["volumes"]}
    places = [one["mountPath"] for one in CONTAINER["volumeMounts"]]
    paths = [word for word in taken.training_script_args if word.startswith("/")]
    assert "/dev/shm" in places
    assert len(paths) == 2
    assert all(any(path.startswith(f"{place}/") for place in places) for path in paths)


@pytest.mark.parametrize(("index", "is_host"), [("0", "true"), ("3", "false")])
def test_the_container_calls_torchrun(index: str, is_host: str, tmp_path: Path) -> None:
    """As the pod's first process, which gets its signals: ``exec`` leaves no shell between."""
    shellcheck(CONTAINER["args"][0])
    commands = write_commands(tmp_path / "bin", torchrun='echo $$ "$@"')
    environment = {"PATH": f"{commands}{os.pathsep}{os.environ['PATH']}", "JOB_COMPLETION_INDEX": index}
    with subprocess.Popen(
        [*CONTAINER["command"], *CONTAINER["args"]], stdout=subprocess.PIPE, text=True, env=environment
    ) as pod:
        number, *words = pod.communicate()[0].split()
    assert int(number) == pod.pid
    assert "exec torchrun" in CONTAINER["args"][0], "only newer shells leave by themselves at a script's last command"
    assert words[words.index("--rdzv-conf") + 1] == f"is_host={is_host}"


def epochs_of(run: Path) -> list[int]:
    """The epochs that a run has noted, in their order."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["epoch"] for line in lines if line["event"] == "epoch"]


def test_slurm_saves_before_its_limit_and_goes_on(tiny_clip: Files, tiny_data: Path, tmp_path: Path) -> None:
    """Two nodes of one process: Slurm's notice to the batch shell alone; then the job's second start, now on one node."""
    run, slurm = tmp_path / "run", tmp_path / "slurm"
    commands = write_commands(slurm, **SUBSTITUTES)
    number = str(os.getpid())
    job = {
        "SLURM_TEST": str(slurm),
        "SLURM_JOB_ID": number,
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_GPUS_ON_NODE": "1",
        "SLURM_CPUS_PER_TASK": "3",
    }
    arguments = command(tiny_clip, tiny_data, run, "--epochs", "40")[1:]
    with started("slurm.sh", arguments, commands, **job, SLURM_JOB_NUM_NODES="2") as batch:
        wait_for(lambda: checkpoints(run), batch)
        assert set(workers(run)) == {"0", "1"}
        os.kill(batch.pid, signal.SIGUSR1)  # --signal=B:USR1@120
        messages = batch.communicate(timeout=300)[1]
    assert batch.returncode != 0
    assert not workers(run)
    assert (slurm / "calls").read_text().endswith(f"scancel --signal=TERM {number}\nscontrol requeue {number}\n")
    assert "forcing job termination" not in messages, "srun killed what it ran"
    assert "--cpus-per-task=3 torchrun" in (slurm / "calls").read_text()
    told = "".join((slurm / f"node-{node}.err").read_text() for node in range(2))
    (line,) = re.findall("^fastlift: .*", told, re.MULTILINE)
    saved = checkpoints(run)[-1]
    assert "SIGTERM" in line
    assert saved in line
    assert len(checkpoints(run)) < 40

    again = {"SLURM_JOB_NUM_NODES": "1", "SLURM_RESTART_COUNT": "1"}
    with started("slurm.sh", arguments, commands, **job | again) as batch:
        batch.communicate(timeout=300)
    told = (slurm / "node-0.err").read_text()
    assert batch.returncode == 0, told
    assert f"({saved})" in told
    assert (slurm / "calls").read_text().count("requeue") == 1
    assert epochs_of(run) == list(range(40))


def test_spot_loop_outlives_a_process_and_its_machine(tiny_clip: Files, tiny_data: Path, tmp_path: Path) -> None:
    """A killed process, then SIGTERM as the machine is taken away; the next machine, which has one process."""
    run, commands = tmp_path / "run", write_commands(tmp_path / "bin")
    arguments = command(tiny_clip, tiny_data, run, "--epochs", "60")[1:]
    with started("spot.sh", arguments, commands, PROCESSES="2") as loop:
        wait_for(lambda: checkpoints(run), loop)
        before = workers(run)
        os.kill(before["1"], signal.SIGKILL)
        wait_for(lambda: len(now := workers(run)) == 2 and before.items().isdisjoint(now.items()), loop)
        known = len(checkpoints(run))
        wait_for(lambda: len(checkpoints(run)) > known, loop)
        os.kill(loop.pid, signal.SIGTERM)
        messages = loop.communicate(timeout=300)[1]
    assert loop.returncode == 143
    assert not workers(run)
    assert "spot.sh: torchrun ended" not in messages, "torchrun itself starts the processes again"
    assert "resuming at epoch" in messages
    saved = checkpoints(run)[-1]
    assert re.search(f"^fastlift: SIGTERM: .*{saved}", messages, re.MULTILINE)

    with started("spot.sh", arguments, commands, PROCESSES="1") as loop:
        messages = loop.communicate(timeout=300)[1]
    assert loop.returncode == 0, messages
    assert f"({saved})" in messages
    assert epochs_of(run) == list(range(60))


def test_spot_loop_stops_at_a_mistake(tmp_path: Path) -> None:
    """torchrun ends with 1 where its processes ended with 2: the loop reads its report. One attempt of torchrun's own."""
    only_once = f'exec {sys.executable} -m torch.distributed.run "${{@/#3/0}}"'
    commands = write_commands(tmp_path / "bin", torchrun=f'echo >> "{tmp_path}/attempts"\n{only_once}')
    with started("spot.sh", ["--epochs", "many", "--output", str(tmp_path / "run")], commands, PROCESSES="1") as loop:
        messages = loop.communicate(timeout=300)[1]
    assert loop.returncode == 2, messages
    assert "--epochs" in messages
    assert len((tmp_path / "attempts").read_text()) == 1


# Each attempt takes the next line: what a torchrun does.
@pytest.mark.parametrize(
    ("attempts", "code", "made"),
    [
        (["exit 1", "exit 1", "exit 0"], 0, 3),
        (["exit 1"] * 9, 1, 4),  # MOST
        (["echo '  exitcode  : 1 (pid: 2 )' >&2; exit 1", "exit 0"], 0, 2),
        (["echo '  exitcode  : 2 (pid: 7)' >&2; exit 1", "exit 0"], 2, 1),
        (["exit 2", "exit 0"], 2, 1),
        (["kill -KILL $$", "exit 0"], 0, 2),
    ],
)
def test_spot_loop_tries_again(attempts: list[str], code: int, made: int, tmp_path: Path) -> None:
    (tmp_path / "attempts").write_text("\n".join(attempts) + "\n")
    torchrun = f'cd "{tmp_path}"; echo >> made; eval "$(sed -n "$(wc -l < made)p" attempts)"'
    late = f'sleep 0.3; exec {shutil.which("tee")} "$@"'  # what torchrun has said is read only once all of it is there
    commands = write_commands(tmp_path / "bin", torchrun=torchrun, tee=late)
    with started("spot.sh", [], commands, WAIT="0", MOST="4") as loop:
        messages = loop.communicate(timeout=120)[1]
    assert loop.returncode == code, messages
    assert len((tmp_path / "made").read_text()) == made


@pytest.mark.parametrize(("when", "code"), [("training", 143), ("at its end", 0), ("waiting", 143)])
def test_spot_loop_hands_sigterm_on(when: str, code: int, tmp_path: Path) -> None:
    """To torchrun, for whose end it waits; between two attempts it ends at once. No other attempt follows."""
    last = "exit 0" if when == "at its end" else "exit 1"
    saving = f"trap 'sleep 0.3; echo saved >&2; {last}' TERM; echo training >&2; while true; do sleep 0.05; done"
    commands = write_commands(tmp_path / "bin", torchrun="exit 1" if when == "waiting" else saving)
    with started("spot.sh", [], commands, WAIT="100") as loop:
        assert loop.stderr is not None
        first = loop.stderr.readline()
        assert first == ("spot.sh: torchrun ended with 1; attempt 2 in 100 s\n" if when == "waiting" else "training\n")
        os.kill(loop.pid, signal.SIGTERM)
        rest = loop.communicate(timeout=30)[1]
    assert loop.returncode == code
    assert rest == ("" if when == "waiting" else "saved\n")
