"""The Kubernetes manifests fit the schemas of Kubernetes, and what they name of Callboard exists."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml

from callboard_runtime.cli import build_app
from callboard_runtime.settings import Settings, WebhookSettings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
FILES = sorted(path for path in FOLDER.glob("*.yaml") if path.name != "kustomization.yaml")
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
VERSIONS = ("1.29", "1.33", "1.37")
PROCESSES = ("http", "actors", "worker")
Json = dict[str, Any]


def _documents(path: Path) -> list[Json]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


ALL = [document for path in FILES for document in _documents(path)]


def the(kind: str, name: str) -> Json:
    [found] = [document for document in ALL if (document["kind"], document["metadata"]["name"]) == (kind, name)]
    return found


def pods() -> Iterator[tuple[str, Json]]:
    """The pods' specs by the command that they run."""
    yield "migrate", the("Job", "callboard-migrate")["spec"]["template"]["spec"]
    for name in PROCESSES:
        yield name, the("Deployment", f"callboard-{name}")["spec"]["template"]["spec"]


PODS = pytest.mark.parametrize(("name", "pod"), list(pods()), ids=[name for name, _ in pods()])


def container(name: str) -> Json:
    [only] = dict(pods())[name]["containers"]
    return only


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_manifest_fits_the_schema(path: Path, version: str) -> None:
    for document in _documents(path):
        assert kubernetes_validate.validate(document, version, strict=True) == version


@pytest.mark.parametrize("change", [{"replicas": "two"}, {"replica": 2}])
def test_the_schema_would_find_a_mistake(change: Json) -> None:
    broken = copy.deepcopy(the("Deployment", "callboard-actors"))
    broken["spec"] |= change
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl on this machine")
def test_kustomize_builds_what_the_files_say() -> None:
    built = subprocess.run(["kubectl", "kustomize", FOLDER], capture_output=True, text=True, check=True).stdout
    kinds = sorted((item["kind"], item["metadata"]["name"]) for item in yaml.safe_load_all(built))
    listed = [item for name in KUSTOMIZATION["resources"] for item in _documents(FOLDER / name)]
    assert kinds == sorted((item["kind"], item["metadata"]["name"]) for item in listed)


def test_everything_but_secrets_and_the_migration_is_applied_together() -> None:
    assert {*KUSTOMIZATION["resources"], "secrets.example.yaml", "migrate.yaml"} == {path.name for path in FILES}


@PODS
def test_a_pod_runs_a_real_command_of_this_release(name: str, pod: Json) -> None:
    commands = typer.main.get_command(build_app()).commands  # type: ignore[attr-defined]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert container(name)["args"] == [name]
    assert name in commands
    assert container(name)["image"] == f"callboard:{version}"
    assert KUSTOMIZATION["images"][0]["newTag"] == version


@PODS
def test_a_pod_is_confined(name: str, pod: Json) -> None:
    [uid] = re.findall(r"--uid (\d+)", (ROOT / "Dockerfile").read_text())
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == int(uid)
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False, "a service named callboard makes variables that look like settings"
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    written = {mount["mountPath"] for mount in container(name)["volumeMounts"]}
    assert written >= ({"/tmp"} if name == "migrate" else {"/tmp", "/home/callboard"})
    assert {mount["name"] for mount in container(name)["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert container(name)["resources"].keys() == {"requests", "limits"}
    assert "memory" in container(name)["resources"]["limits"]


@pytest.mark.parametrize("name", PROCESSES)
def test_probes_and_scrapes_ask_where_the_process_answers(name: str) -> None:
    config = the("ConfigMap", "callboard")["data"]
    default = Settings.model_validate({}).http.port
    expected = default if name == "http" else int(config["CALLBOARD_METRICS__PORT"])
    [port] = container(name)["ports"]
    assert port["containerPort"] == expected
    paths = {kind: container(name)[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    assert {kind: probe["path"] for kind, probe in paths.items()} == {
        "startup": "/healthz",
        "liveness": "/healthz",
        "readiness": "/readyz",
    }
    assert {probe["port"] for probe in paths.values()} == {port["name"]}
    annotations = the("Deployment", f"callboard-{name}")["spec"]["template"]["metadata"]["annotations"]
    assert annotations == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(expected),
        "prometheus.io/path": "/metrics",
    }
    assert config["CALLBOARD_METRICS__HOST"] == config["CALLBOARD_HTTP__HOST"] == "0.0.0.0"


def test_pods_get_the_time_to_drain() -> None:
    settings = Settings.model_validate({})
    wait = int(container("http")["lifecycle"]["preStop"]["exec"]["command"][1])
    grace = {name: pod.get("terminationGracePeriodSeconds", 0) for name, pod in pods()}
    assert grace["http"] > wait + settings.http.drain
    assert grace["worker"] > settings.worker.drain
    assert grace["actors"] >= 20


@pytest.mark.parametrize("name", PROCESSES)
def test_selectors_choose_the_pods_of_their_kind_alone(name: str) -> None:
    deployment = the("Deployment", f"callboard-{name}")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert labels == {"app.kubernetes.io/name": "callboard", "app.kubernetes.io/component": name}
    budget = the("PodDisruptionBudget", f"callboard-{name}")["spec"]
    assert deployment["spec"]["selector"] == budget["selector"] == {"matchLabels": labels}
    assert budget["maxUnavailable"] == 1
    if name == "http":
        assert the("Service", "callboard")["spec"]["selector"] == labels


def test_there_are_two_of_each_and_nobody_counts_against_an_autoscaler() -> None:
    for name in PROCESSES:
        replicas = the("Deployment", f"callboard-{name}")["spec"].get("replicas")
        scalers = [
            item["spec"] for item in ALL if item["metadata"]["name"] == f"callboard-{name}" and "Auto" in item["kind"]
        ]
        assert [scaler["scaleTargetRef"]["name"] for scaler in scalers] == [f"callboard-{name}"] * len(scalers)
        assert [replicas or scaler["minReplicas"] for scaler in scalers or [{}]] == [2]
        assert not (replicas and scalers)


def _named(pod_container: Json) -> list[tuple[str, str, bool]]:
    """Kind, name and whether it may be missing, of all that a container takes its variables from."""
    found: list[tuple[str, str, bool]] = []
    for source in pod_container["envFrom"]:
        [(kind, ref)] = source.items()
        found.append(
            ({"secretRef": "Secret", "configMapRef": "ConfigMap"}[kind], ref["name"], ref.get("optional", False))
        )
    return found


@PODS
def test_the_environment_is_made_of_settings_that_are_enough(
    name: str, pod: Json, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = {
        "DATABASE_URL": "postgresql://u:p@h:5432/callboard",
        "AMQP_URL": "amqp://u:p@h:5672/callboard",
        "REDIS_URL": "redis://:p@h:6379/0",
        "JWT_SECRET": "x" * 64,
        "OPENAI": "sk-x",
        "WEBHOOKS__URLS": "https://host/path",
        "WEBHOOKS__SECRET": "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
    }
    for kind, source, _ in _named(container(name)):
        document = the(kind, source)
        for variable, value in (document.get("data") or document["stringData"]).items():
            [given] = [text for end, text in examples.items() if variable.endswith(end)] or [value]
            monkeypatch.setenv(variable, given)
    settings = Settings()
    assert settings.required_database_url()
    assert settings.required_amqp_url()
    assert settings.required_redis_url()
    assert settings.log_format == "json"
    assert (settings.auth.jwt_secret is not None) == (name == "http")
    assert (settings.llm.provider_keys.openai is not None) == (name == "worker")
    assert (settings.webhooks != WebhookSettings()) == (name == "actors")
    assert [source for _, source, optional in _named(container(name)) if optional] == (
        ["callboard-actors"] if name == "actors" else []
    )


def test_the_secrets_are_placeholders_and_settings() -> None:
    secrets = _documents(FOLDER / "secrets.example.yaml")
    values = {variable: value for secret in secrets for variable, value in secret["stringData"].items()}
    assert all(re.fullmatch(r"<.+>", value) for value in values.values())
    named = {
        source for name in ("migrate", *PROCESSES) for kind, source, _ in _named(container(name)) if kind == "Secret"
    }
    assert named == {secret["metadata"]["name"] for secret in secrets}
    assert not [document for document in ALL if document["kind"] == "Secret" and document not in secrets]
