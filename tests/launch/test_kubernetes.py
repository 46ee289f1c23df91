"""launch/kubernetes.py: the JobSet that it renders, what it refuses, and the shell in the pods."""

import importlib.util
import signal
import subprocess
import sys
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml", reason="PyYAML reads what was rendered")

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("launch_kubernetes", ROOT / "launch" / "kubernetes.py")
kubernetes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(kubernetes)

GPUS = ["--name=run", "--image=registry/imgcls:1", "--hosts=2", "--gpus=8", "--workdir=/mnt/shared/run"]
TPUS = ["--name=run", "--image=registry/imgcls:1", "--hosts=2", "--tpus=4", "--workdir=/mnt/shared/run"]
SLICE = ["--accelerator=tpu-v4-podslice", "--topology=2x2x2"]
ARGUMENTS = ["--", "--config", "configs/x.py"]

# The part of the custom resource's schema that is used (kubernetes-sigs/jobset, v1alpha2): every object's
# fields with their types; a * marks the required ones, and [] an array of such objects.
SCHEMA = {
    "apiVersion*": str,
    "kind*": str,
    "metadata*": {"name*": str},
    "spec*": {
        "network": {"enableDNSHostnames": bool},
        "failurePolicy": {"maxRestarts": int},
        "replicatedJobs": [{"name*": str, "replicas": int, "template*": {"spec*": "job"}}],
    },
}
JOB = {
    "completionMode": str,
    "parallelism": int,
    "completions": int,
    "backoffLimit": int,
    "template*": {"spec*": "pod"},
}
POD = {
    "restartPolicy": str,
    "automountServiceAccountToken": bool,
    "terminationGracePeriodSeconds": int,
    "nodeSelector": "strings",
    "containers*": [
        {
            "name*": str,
            "image": str,
            "command": [str],
            "args": [str],
            "env": [{"name*": str, "value": str, "valueFrom": {"fieldRef": {"fieldPath*": str}}}],
            "ports": [{"containerPort*": int}],
            "resources": {"requests": "strings", "limits": "strings"},
            "volumeMounts": [{"name*": str, "mountPath*": str}],
        }
    ],
    "volumes": [
        {"name*": str, "persistentVolumeClaim": {"claimName*": str}, "emptyDir": {"medium": str}},
    ],
}
NAMED = {"job": JOB, "pod": POD}


def faults(value, schema, path="jobset"):
    """Yields where a document is not of a schema."""
    schema = NAMED.get(schema, schema) if isinstance(schema, str) else schema
    if schema == "strings":
        yield from (f"{path}.{key}: {text!r}" for key, text in value.items() if not isinstance(text, str))
    elif isinstance(schema, list):
        for i, item in enumerate(value):
            yield from faults(item, schema[0], f"{path}[{i}]")
    elif isinstance(schema, dict):
        fields = {name.rstrip("*"): inner for name, inner in schema.items()}
        yield from (f"{path}: unknown {name}" for name in value.keys() - fields.keys())
        required = {name[:-1] for name in schema if name.endswith("*")}
        yield from (f"{path}: no {name}" for name in required - value.keys())
        for name in value.keys() & fields.keys():
            yield from faults(value[name], fields[name], f"{path}.{name}")
    elif type(value) is not schema:
        yield f"{path}: {value!r} is no {schema.__name__}"


def render(*arguments):
    return yaml.safe_load(kubernetes.render(kubernetes.parse_arguments(arguments)))


def job_of(document):
    return document["spec"]["replicatedJobs"][0]["template"]["spec"]


def container_of(document):
    return job_of(document)["template"]["spec"]["containers"][0]


def environment_of(document):
    return {entry["name"]: entry.get("value") for entry in container_of(document)["env"]}


@pytest.mark.parametrize("arguments", [GPUS, [*TPUS, *SLICE, "--cpus=90", "--memory=300Gi"]])
def test_the_document_is_of_the_schema(arguments):
    document = render(*arguments, *ARGUMENTS)
    assert (document["apiVersion"], document["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert list(faults(document, SCHEMA)) == []
    pod = job_of(document)["template"]["spec"]
    mounted = {mount["name"] for mount in container_of(document)["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_schema_refuses():
    document = render(*GPUS, *ARGUMENTS)
    job_of(document)["parallelism"] = "2"
    job_of(document)["complations"] = 2
    del container_of(document)["name"]
    assert len(list(faults(document, SCHEMA))) == 3


def test_gpus_leave_nothing_for_jax_to_detect():
    document = render(*GPUS, *ARGUMENTS)
    job = job_of(document)
    assert job["parallelism"] == job["completions"] == 2
    assert (job["completionMode"], job["backoffLimit"]) == ("Indexed", 0)
    assert container_of(document)["args"] == [
        *["python", "-m", "imgcls_jax.main", "--distributed"],
        *["--coordinator=run-hosts-0-0.run:8476", "--num_processes=2", "--process_id=$(PROCESS_ID)"],
        *["--workdir=/mnt/shared/run", "--config", "configs/x.py"],
    ]
    assert environment_of(document)["JAX_LOCAL_DEVICE_IDS"] == "0,1,2,3,4,5,6,7"
    assert container_of(document)["resources"]["limits"] == {"nvidia.com/gpu": "8"}
    assert container_of(document)["ports"] == [{"containerPort": 8476}]


def test_on_a_tpu_slice_jax_detects_all():
    document = render(*TPUS, *SLICE, *ARGUMENTS)
    arguments = container_of(document)["args"]
    assert "--distributed" in arguments and not any("coordinator" in argument for argument in arguments)
    assert environment_of(document)["JAX_LOCAL_DEVICE_IDS"] == ""  # which JAX takes as not given
    assert container_of(document)["resources"]["limits"] == {"google.com/tpu": "4"}
    assert job_of(document)["template"]["spec"]["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v4-podslice",
        "cloud.google.com/gke-tpu-topology": "2x2x2",
    }


def test_arguments_arrive_as_they_are():
    hard = ['--config.a="b: c"', "--config.b=$(HOME) $$ %{name}", "--config.c=- x\n#"]
    arguments = container_of(render(*GPUS, *ARGUMENTS, *hard))["args"]
    # What Kubernetes makes of $$ and of $(NAME), which no argument of ours may hold by chance.
    assert [argument.replace("$$", "$") for argument in arguments[-3:]] == hard


@pytest.mark.parametrize(
    "arguments,said",
    [
        ([*GPUS, "--name=My_run"], "--name"),
        ([*GPUS, "--name=1run"], "--name"),
        ([*GPUS, "--name=" + "a" * 48], "47 characters"),
        ([*GPUS, "--hosts=0"], "--hosts"),
        ([*GPUS, "--gpus=-1"], "--gpus"),
        ([*GPUS, "--image=my image"], "--image"),
        ([*GPUS, "--memory=12GB"], "--memory"),
        ([*GPUS, "--cpus=many"], "--cpus"),
        ([*GPUS, "--claim=My.Claim"], "--claim"),
        ([*GPUS, "--workdir=gs://bucket/run"], "--workdir"),
        ([*GPUS, "--workdir=/home/run"], "--workdir"),
        ([*GPUS, "--workdir=/mnt/shared/../run"], "--workdir"),
        ([*GPUS, *SLICE], "--tpus"),
        ([*GPUS, "--tpus=4", *SLICE], "--tpus"),
        ([*TPUS], "--topology"),
        ([*TPUS, *SLICE, "--topology=2x2x4"], "16 chips"),
    ],
)
def test_a_wrong_value_is_named_and_2(arguments, said, capsys):
    with pytest.raises(SystemExit) as stop:
        kubernetes.parse_arguments([*arguments, *ARGUMENTS])
    assert stop.value.code == 2 and said in capsys.readouterr().err.splitlines()[-1]


def pod_shell(program, workdir, process_id):
    """Starts what a pod runs, with a stand-in for the training."""
    command = container_of(render(*GPUS, *ARGUMENTS))["command"]
    return subprocess.Popen(
        [*command, sys.executable, "-uc", program],
        env={"PATH": "/usr/bin:/bin", "WORKDIR": str(workdir), "PROCESS_ID": process_id},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    "status,finished,process_id,expected",
    [(0, True, "0", 0), (0, False, "0", 1), (0, False, "1", 0), (7, True, "0", 7), (7, False, "1", 7)],
)
def test_a_pod_ends_well_only_when_the_run_is_finished(tmp_path, status, finished, process_id, expected):
    if finished:
        (tmp_path / "result.json").touch()
    process = pod_shell(f"raise SystemExit({status})", tmp_path, process_id)
    process.communicate(timeout=30)
    assert process.returncode == expected


def test_an_evicted_pod_saves_and_counts_as_failed(tmp_path):
    process = pod_shell(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), print('saved'), sys.exit(0)))\n"
        "print('ready')\n"
        "time.sleep(60)",
        tmp_path,
        "0",
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert output == "saved\n" and process.returncode == 1
