"""The examples for clusters: fields that JobSet, KubeRay and Kubernetes document, commands that our programs take."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.run import parse_args

from tests import test_readme
from tests.test_readme import ROOT, check_maskworks, check_sbatch, check_torchrun

parse, weights = test_readme.parse, test_readme.weights
CLUSTER = ROOT / "scripts/cluster"

# What the examples use of the APIs, as their references describe it. "name?" may be left out, "*" is any name, a tuple
# has the values or types that are allowed, a list says what each element is.

VOLUME = {
    "name": str,
    "persistentVolumeClaim?": {"claimName": str},
    "configMap?": {"name": str, "defaultMode?": int},
    "emptyDir?": {"medium?": ("", "Memory")},
}
CONTAINER = {
    "name": str,
    "image": str,
    "command?": [str],
    "workingDir?": str,
    "env?": [{"name": str, "value": str}],
    "resources?": {"limits": {"*": (int, str)}},
    "volumeMounts?": [{"name": str, "mountPath": str}],
}
POD = {
    "spec": {
        "restartPolicy?": ("Never", "OnFailure"),
        "securityContext?": {"fsGroup": int},
        "containers": [CONTAINER],
        "volumes?": [VOLUME],
    }
}
CONDITION = {"type": ("DisruptionTarget",), "status": ("True", "False", "Unknown")}
JOB = {
    "spec": {
        "completionMode?": ("Indexed", "NonIndexed"),
        "completions?": int,
        "parallelism?": int,
        "backoffLimit?": int,
        "podFailurePolicy?": {"rules": [{"action": ("Ignore", "FailJob", "Count"), "onPodConditions": [CONDITION]}]},
        "template": POD,
    }
}
JOBSET = {
    "apiVersion": ("jobset.x-k8s.io/v1alpha2",),
    "kind": ("JobSet",),
    "metadata": {"name": str},
    "spec": {
        "network?": {"enableDNSHostnames?": bool},
        "successPolicy?": {"operator": ("All", "Any")},
        "replicatedJobs": [{"name": str, "replicas?": int, "template": JOB}],
    },
}
PODS = {"rayStartParams": {"*": str}, "template": POD}
RAYJOB = {
    "apiVersion": ("ray.io/v1",),
    "kind": ("RayJob",),
    "metadata": {"name": str},
    "spec": {
        "entrypoint": str,
        "backoffLimit?": int,
        "shutdownAfterJobFinishes?": bool,
        "ttlSecondsAfterFinished?": int,
        "rayClusterSpec": {
            "rayVersion": str,
            "headGroupSpec": PODS,
            "workerGroupSpecs": [{"groupName": str, "replicas?": int, "minReplicas": int, "maxReplicas": int} | PODS],
        },
    },
}
EXAMPLES = {"jobset.yaml": JOBSET, "kuberay.yaml": RAYJOB}


def faults(value: Any, schema: Any, place: str = "") -> Iterator[str]:
    if isinstance(schema, list):
        if type(value) is not list:
            yield f"{place} is no list"
            return
        for number, each in enumerate(value):
            yield from faults(each, schema[0], f"{place}[{number}]")
    elif isinstance(schema, dict):
        if type(value) is not dict:
            yield f"{place} has no fields"
            return
        fields = {name.rstrip("?"): inner for name, inner in schema.items()}
        yield from (f"{place}.{name} is missing" for name in schema if name[-1] not in "?*" and name not in value)
        for name, inner in value.items():
            if name in fields or "*" in fields:
                yield from faults(inner, fields.get(name, fields.get("*")), f"{place}.{name}")
            else:
                yield f"{place}.{name} is unknown"
    elif value not in (allowed := schema if isinstance(schema, tuple) else (schema,)) and type(value) not in allowed:
        yield f"{place} is {value!r}"


def read(name: str) -> Any:
    return yaml.safe_load((CLUSTER / name).read_text(encoding="utf-8"))


def pods(example: Any) -> list[Any]:
    """Of all groups: what runs together, and what is mounted."""
    if example["kind"] == "JobSet":
        return [job["template"]["spec"]["template"]["spec"] for job in example["spec"]["replicatedJobs"]]
    cluster = example["spec"]["rayClusterSpec"]
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_has_the_fields_of_its_api_and_mounts_what_it_names(name: str) -> None:
    example = read(name)
    assert list(faults(example, EXAMPLES[name])) == []
    for pod in pods(example):
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize(
    ("name", "line", "wrong", "fault"),
    [
        ("jobset.yaml", "operator: Any", "operator: Some", "spec.successPolicy.operator is 'Some'"),
        ("jobset.yaml", "  network:", "  networks:", "spec.networks is unknown"),
        ("jobset.yaml", "replicas: 4", "replicas: four", "spec.replicatedJobs[0].replicas is 'four'"),
        ("kuberay.yaml", 'num-cpus: "0"', "num-cpus: 0", "headGroupSpec.rayStartParams.num-cpus is 0"),
        ("kuberay.yaml", "minReplicas: 8", "", "workerGroupSpecs[0].minReplicas is missing"),
    ],
)
def test_a_field_that_is_wrong_is_found(name: str, line: str, wrong: str, fault: str) -> None:
    text = (CLUSTER / name).read_text(encoding="utf-8")
    assert line in text
    (found,) = faults(yaml.safe_load(text.replace(line, wrong)), EXAMPLES[name])
    assert found.endswith(fault)


def test_the_machines_of_the_job_set_meet_at_its_first_pod_and_can_share_out_the_batch_in_any_number() -> None:
    example = read("jobset.yaml")
    name, (job,) = example["metadata"]["name"], example["spec"]["replicatedJobs"]
    container = pods(example)[0]["containers"][0]
    options = parse_args(container["command"][1:])
    assert options.rdzv_endpoint.rpartition(":")[0] == f"{name}-{job['name']}-0-0.{name}"
    assert options.nnodes == f"1:{job['replicas']}"
    assert int(options.nproc_per_node) == container["resources"]["limits"]["nvidia.com/gpu"]
    batch = int(re.findall(r"--batch-size=(\d+)", " ".join(options.training_script_args))[0])
    assert [batch % (machines * 8) for machines in range(1, job["replicas"] + 1)] == [0] * job["replicas"]


def written(path: Path) -> Iterator[list[str]]:
    """The commands of a file's first lines, and what an example itself starts."""
    text = path.read_text(encoding="utf-8").replace("\\\n#", " ")
    for line in re.findall(r"^#     (.+)$", text, re.MULTILINE):
        yield shlex.split(line)
    if path.name == "jobset.yaml":
        yield pods(read(path.name))[0]["containers"][0]["command"]
    elif path.name == "kuberay.yaml":
        yield shlex.split(read(path.name)["spec"]["entrypoint"])


COMMANDS = [(path.name, words) for path in sorted(CLUSTER.iterdir()) for words in written(path)]


@pytest.mark.parametrize(("name", "words"), COMMANDS)
def test_a_command_of_an_example_is_taken_by_its_program(
    name: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parse: Any, weights: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MASKWORKS_CACHE", str(tmp_path / "cache"))
    words = [word.replace("/scripts/", "scripts/cluster/").removeprefix("/data/") for word in words]
    match words[0]:
        case "sbatch":
            check_sbatch(words[1:], ROOT, parse, weights)
        case "torchrun":
            check_torchrun(words[1:], ROOT, parse, weights)
        case "maskworks":
            check_maskworks(words[1:], False, parse, weights)
        case "kubectl":
            assert (ROOT / words[-1]).is_file()
        case program:
            assert program in ("FROM", "COPY", "RUN")


def test_the_scripts_are_bash_and_every_example_says_how_it_is_started() -> None:
    assert {name for name, _ in COMMANDS} == {path.name for path in CLUSTER.iterdir()}
    for script in CLUSTER.glob("*.sh"):
        subprocess.run(["bash", "-n", script], check=True)
