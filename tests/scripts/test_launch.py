"""The files in scripts/launch: what they start, and that their schedulers take them."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).resolve().parents[2] / "scripts" / "launch"


def documents(name):
    return [one for one in yaml.safe_load_all((LAUNCH / name).read_text()) if one]


def program(folder, name, text):
    """An executable of this name at the front of PATH."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(0o755)


def started(script, *args, path, **more):
    environment = {"PATH": f"{path}:/usr/bin:/bin", **more}
    return subprocess.run([LAUNCH / script, *args], env=environment, capture_output=True, text=True, timeout=60)


def test_mpirun_gets_its_arguments_and_the_program_its_own(tmp_path):
    program(tmp_path, "mpirun", 'printf "%s|" "$@"')
    done = started("openmpi.sh", "-n", "2", "--", "--config=debug", "--workdir=a b", path=tmp_path)
    assert done.stdout == "-n|2|vit-jax|--config=debug|--workdir=a b|--coordinator_address=auto|"
    assert started("openmpi.sh", "--", "--config=debug", path=tmp_path).stdout.startswith("vit-jax|--config=debug|")
    assert started("openmpi.sh", "-n", "2", path=tmp_path).returncode == 2


def test_a_tpu_slice_gets_the_command_as_it_was_typed(tmp_path):
    program(tmp_path, "gcloud", 'printf "%s|" "$@"')
    done = started("tpu_pod.sh", "--config=debug", "--workdir=a b", path=tmp_path, TPU="mine", ZONE="here")
    command = "--command=cd vit_jax && ./scripts/train.sh --config=debug --workdir=a\\ b --coordinator_address=auto|"
    assert done.stdout.endswith(command) and "|mine|--zone=here|--worker=all|" in done.stdout
    assert "the zone" in started("tpu_pod.sh", path=tmp_path, TPU="mine").stderr


@pytest.mark.parametrize(
    ("code", "job", "queued"),
    [(143, "RUNNING", True), (143, "COMPLETING", False), (0, "RUNNING", False), (1, "RUNNING", False)],
)
def test_under_slurm_a_run_that_was_stopped_and_saved_goes_back_into_the_queue(tmp_path, code, job, queued):
    program(tmp_path, "srun", f'echo "$@"; exit {code}')
    program(tmp_path, "scontrol", f'[ "$1" = show ] && echo JobState={job} || echo "scontrol $@"')
    done = started("slurm.sh", "--config=debug", path=tmp_path, SLURM_JOB_ID="7")
    first, *rest = done.stdout.splitlines()
    assert first.endswith("vit-jax --config=debug --coordinator_address=auto") and done.returncode == code
    assert rest == (["scontrol requeue 7"] if queued else [])


def test_under_slurm_its_signal_is_waited_out(tmp_path):
    """Slurm sends the batch script the signal, too: it doesn't end before the processes have saved."""
    program(
        tmp_path, "srun", 'trap "sleep 1; echo saved; exit 143" TERM; echo begun; for i in {1..100}; do sleep 0.1; done'
    )
    program(tmp_path, "scontrol", '[ "$1" = show ] && echo JobState=RUNNING || echo "scontrol $@"')
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7"}
    job = subprocess.Popen([LAUNCH / "slurm.sh"], env=environment, stdout=-1, text=True, start_new_session=True)
    assert job.stdout.readline() == "begun\n"
    subprocess.run(["pkill", "-TERM", "--session", str(job.pid)], check=True)
    assert job.communicate(timeout=30)[0] == "saved\nscontrol requeue 7\n" and job.returncode == 143


RAY = {  # as much of it as the file uses, with one worker of three
    "ray/__init__.py": "class util:\n    get_node_ip_address = staticmethod(lambda: '10.0.0.1')\n",
    "ray/train/__init__.py": """
FailureConfig = RunConfig = ScalingConfig = dict
class get_context:
    get_world_rank, get_world_size = (lambda self: 1), (lambda self: 3)
""",
    "ray/train/collective.py": "broadcast_from_rank_zero = lambda mine: '10.0.0.9:4567'\n",
    "ray/train/v2/jax/__init__.py": """
class JaxTrainer:
    def __init__(self, work, train_loop_config, jax_config, scaling_config, run_config):
        assert scaling_config == {"num_workers": 3} and run_config["failure_config"]["max_failures"] > 1
        self.work, self.job = work, train_loop_config
    def fit(self):
        import os
        os.chdir("/")  # as Ray does
        self.return_value = self.work(self.job)
        return self
""",
    "ray/train/v2/jax/config.py": "JaxConfig = object\n",
}


@pytest.mark.parametrize(("code", "again"), [(0, False), (1, True), (-9, True), (2, False), (143, True), (138, False)])
def test_a_worker_of_ray_is_one_process_of_the_job(tmp_path, code, again):
    for name, text in RAY.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    end = "kill -9 $$" if code == -9 else f"exit {code}"
    program(tmp_path / "bin", "setpriv", f'printf "%s|" "$PWD" "$@"; {end}')
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "PYTHONPATH": str(tmp_path)}
    script = [sys.executable, LAUNCH / "ray_train.py", '{"num_workers": 3}', "--config=debug", "--workdir=a b"]
    given = {"env": environment, "cwd": tmp_path, "capture_output": True, "text": True, "timeout": 60}
    done = subprocess.run(script, **given)
    peers = "--coordinator_address=10.0.0.9:4567|--num_processes=3|--process_id=1|"
    assert done.stdout.startswith(f"{tmp_path}|--pdeathsig=KILL|"), done.stdout + done.stderr
    assert done.stdout.endswith(f"|-m|vit_jax.main|--config=debug|--workdir=a b|{peers}")
    assert ("RuntimeError: process 1 of 3 ended with" in done.stderr) == again  # on which Ray starts all again
    assert again or done.returncode == code
    bare = subprocess.run([*script[:2], "--config=debug"], **given)
    assert bare.returncode == 2 and bare.stderr.startswith("error: Ray's ScalingConfig as JSON")


def test_pods_find_each_other_by_the_names_that_kubernetes_gives_them():
    service, job = documents("kubernetes.yaml")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    given = dict(arg.removeprefix("--").split("=", 1) for arg in container["args"])
    name, domain = job["metadata"]["name"], job["spec"]["template"]["spec"]["subdomain"]
    port = service["spec"]["ports"][0]["port"]
    assert domain == service["metadata"]["name"] and service["spec"]["selector"] == {"job-name": name}
    assert given["coordinator_address"] == f"{name}-0.{domain}:{port}"
    assert int(given["num_processes"]) == job["spec"]["completions"] == job["spec"]["parallelism"]
    assert given["process_id"] == f"$({container['env'][0]['name']})"
    (jobset,) = documents("jobset.yaml")
    chips = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    limit = chips["template"]["spec"]["containers"][0]["resources"]["limits"]["google.com/tpu"]
    sides = chips["template"]["spec"]["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    assert chips["completions"] * limit == int(sides[0]) * int(sides[1])


# JobSet's own schema (kubernetes-sigs/jobset, config/components/crd/bases, v1alpha2), without a Job's and metadata's.
_TEXT, _NUMBER, _FLAG = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}


def _object(**properties):
    return {"type": "object", "properties": properties, "additionalProperties": False}


JOBSET = _object(
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata={"type": "object", "required": ["name"]},
    spec=_object(
        replicatedJobs={
            "type": "array",
            "items": _object(
                name=_TEXT, replicas=_NUMBER, groupName=_TEXT, template={"type": "object"}, dependsOn={"type": "array"}
            )
            | {"required": ["name", "template"]},
        },
        network=_object(enableDNSHostnames=_FLAG, publishNotReadyAddresses=_FLAG, subdomain=_TEXT),
        failurePolicy=_object(
            maxRestarts=_NUMBER, restartStrategy={"enum": ["Recreate", "BlockingRecreate"]}, rules={"type": "array"}
        ),
        successPolicy=_object(operator={"enum": ["All", "Any"]}, targetReplicatedJobs={"type": "array"}),
        startupPolicy=_object(startupPolicyOrder={"enum": ["AnyOrder", "InOrder"]}),
        coordinator=_object(replicatedJob=_TEXT, jobIndex=_NUMBER, podIndex=_NUMBER) | {"required": ["replicatedJob"]},
        suspend=_FLAG,
        managedBy=_TEXT,
        ttlSecondsAfterFinished=_NUMBER,
    ),
) | {"required": ["apiVersion", "kind", "metadata", "spec"]}


def test_kubernetes_takes_the_files():
    validator = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
    jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema, which comes with it")
    (jobset,) = documents("jobset.yaml")
    jsonschema.validate(jobset, JOBSET)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(jobset | {"spec": jobset["spec"] | {"maxRestarts": 3}}, JOBSET)
    inner = [one["template"] | {"apiVersion": "batch/v1", "kind": "Job"} for one in jobset["spec"]["replicatedJobs"]]
    for one in (*documents("kubernetes.yaml"), *inner):
        validator.validate(one, validator.latest_version(), strict=True)
