"""The Kubernetes manifests: of one piece, confined, and valid by the cluster's schemas where a validator is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "k8s"
RESOURCES = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
APPLIED: list[dict[str, Any]] = [yaml.safe_load((FOLDER / name).read_text()) for name in RESOURCES]
BY_KIND = {resource["kind"]: resource for resource in APPLIED}
DEPLOYMENT = BY_KIND["Deployment"]
POD = DEPLOYMENT["spec"]["template"]["spec"]


@pytest.mark.parametrize("name", [*RESOURCES, "replicas.yaml"])
def test_manifests_meet_the_schemas(name: str) -> None:
    """Against the newest Kubernetes that the validator knows, unknown fields refused."""
    validator = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed (100 MB of schemas)"
    )
    validator.validate(yaml.safe_load((FOLDER / name).read_text()), validator.latest_version(), strict=True)


def test_everything_selects_the_pods_that_there_are() -> None:
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    assert DEPLOYMENT["spec"]["selector"]["matchLabels"] == labels
    assert BY_KIND["Service"]["spec"]["selector"] == labels
    assert BY_KIND["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert BY_KIND["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    ports = {port["name"] for port in POD["containers"][0]["ports"]}
    assert {port["targetPort"] for port in BY_KIND["Service"]["spec"]["ports"]} <= ports
    claims = [
        volume["persistentVolumeClaim"]["claimName"] for volume in POD["volumes"] if "persistentVolumeClaim" in volume
    ]
    assert claims == [BY_KIND["PersistentVolumeClaim"]["metadata"]["name"]]
    assert {mount["name"] for each in containers() for mount in each["volumeMounts"]} == {
        volume["name"] for volume in POD["volumes"]
    }


def test_every_container_is_confined() -> None:
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["automountServiceAccountToken"] is False
    for container in containers():
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]


def test_probes_ask_what_each_is_for() -> None:
    container = POD["containers"][0]
    paths = {kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")}
    assert paths == {"startup": "/healthz", "readiness": "/readyz", "liveness": "/healthz"}


def test_the_cluster_adds_no_setting_of_its_own() -> None:
    """A Service called flawscribe would become FLAWSCRIBE_SERVICE_HOST in its pods, and an unknown setting is refused."""
    assert POD["enableServiceLinks"] is False


def test_a_pod_has_time_to_drain() -> None:
    from service.settings import Settings

    drain = Settings.model_fields["drain_s"].default
    wait = POD["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert POD["terminationGracePeriodSeconds"] >= wait + 2 * drain


def containers() -> list[dict[str, Any]]:
    return [*POD["initContainers"], *POD["containers"]]
