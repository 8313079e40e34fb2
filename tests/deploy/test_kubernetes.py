"""The manifests: what kustomize makes of them fits Kubernetes' own schema and its strictest profile."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from typing import Any

import pytest

from tests.deploy.places import DEPLOY, NODE_READS, documents, program, wrong

ROLES = ("hub", "site")


@cache
def rendered(role: str) -> list[dict[str, Any]]:
    """The objects of a role's overlay."""
    asked = [program("kubectl"), "kustomize", str(DEPLOY / "kubernetes" / "overlays" / role)]
    return list(
        documents(subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True).stdout)
    )


def kinds(role: str, kind: str) -> list[dict[str, Any]]:
    """The objects of one kind."""
    return [found for found in rendered(role) if found["kind"] == kind]


def pod(role: str) -> dict[str, Any]:
    """What the one pod of a role is to be."""
    (deployment,) = kinds(role, "Deployment")
    found: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return found


def containers(role: str) -> dict[str, dict[str, Any]]:
    """Every container of a role by its name, those that run first too."""
    return {each["name"]: each for each in [*pod(role)["initContainers"], *pod(role)["containers"]]}


@pytest.mark.parametrize("role", ROLES)
def test_every_object_fits_the_schema_of_kubernetes_and_no_key_is_unknown_to_it(role: str) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for document in rendered(role):
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_the_check_of_objects_finds_what_is_wrong() -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    (account,) = kinds("hub", "ServiceAccount")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(
            {**account, "automountToken": False}, kubernetes_validate.latest_version(), strict=True
        )


@pytest.mark.parametrize("role", ROLES)
def test_containers_fit_the_restricted_profile_that_the_namespace_enforces(role: str) -> None:
    (namespace,) = kinds(role, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert pod(role)["automountServiceAccountToken"] is False
    assert pod(role)["securityContext"]["runAsNonRoot"] is True
    assert pod(role)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(role).values():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert set(container["resources"]["limits"]) == {"cpu", "memory"}


@pytest.mark.parametrize("role", ROLES)
def test_no_secret_is_in_a_manifest(role: str) -> None:
    assert kinds(role, "Secret") == []


@pytest.mark.parametrize("role", ROLES)
def test_images_are_named_by_version(role: str) -> None:
    assert {container["image"] for container in containers(role).values()} == {
        f"registry.example/fedglia-{role}:0.1.0"
    }


def test_the_network_is_closed_but_for_the_one_road() -> None:
    for role in ROLES:
        closed = [
            each["spec"] for each in kinds(role, "NetworkPolicy") if each["metadata"]["name"] == "closed"
        ]
        assert closed == [{"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}]
    opened = {
        role: [each["spec"] for each in kinds(role, "NetworkPolicy") if each["metadata"]["name"] != "closed"]
        for role in ROLES
    }
    (hub,), (site,) = opened["hub"], opened["site"]
    assert hub["ingress"] == [{"ports": [{"port": 8443, "protocol": "TCP"}]}]
    assert "egress" not in hub
    assert "ingress" not in site
    assert all("to" in road for road in site["egress"])


def test_the_node_has_no_scans_and_the_worker_no_key() -> None:
    mounts = {
        name: {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
        for name, container in containers("site").items()
    }
    seen = [mount for mount in containers("site")["node"]["volumeMounts"] if mount["name"] == "site"]
    assert {mount["subPath"]: mount.get("readOnly", False) for mount in seen} == {
        "site/run": False,
        **{f"site/{name}": True for name in NODE_READS},
    }
    assert all(mount["mountPath"] == f"/var/lib/fedglia/{mount['subPath']}" for mount in seen)
    assert set(mounts["node"]) == {"/tmp", "/var/lib/fedglia", *(mount["mountPath"] for mount in seen)}
    (nothing,) = (each for each in pod("site")["volumes"] if each["name"] == "nothing")
    assert "emptyDir" in nothing
    assert mounts["worker"]["/srv/fedglia/scans"] is True
    assert mounts["worker"]["/var/lib/fedglia/site/key"] is True


def test_the_authority_is_pinned_before_the_node_starts_which_cannot_do_it() -> None:
    first, then = pod("site")["initContainers"]
    assert (first["args"][:2], then["args"][:2]) == (["site", "init"], ["site", "trust"])
    assert "--fingerprint=$(FINGERPRINT)" in first["args"]
    assert "--fingerprint=$(FINGERPRINT)" in then["args"]


@pytest.mark.parametrize("role", ROLES)
def test_every_command_exists(role: str) -> None:
    asked = [container["args"] for container in containers(role).values() if "args" in container]
    probes = [
        probe["exec"]["command"]
        for container in containers(role).values()
        for key, probe in container.items()
        if key.endswith("Probe") and "exec" in probe
    ]
    assert bool(probes) == (role == "site")  # a run that waits for a person must not shut the sites out
    assert all(words[0] == "fedglia" for words in probes)
    for words in [*asked, *(words[1:] for words in probes)]:
        if not words[0].startswith("/"):
            assert wrong(words) is None, words


def test_the_hubs_first_container_is_sound_shell() -> None:
    shell, flag, script = containers("hub")["init"]["command"]
    assert (shell, flag) == ("sh", "-c")
    asked = [program("shellcheck"), "--shell=sh", "-"]
    done = subprocess.run(asked, input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert wrong(["hub", "init", "--address"]) is None


def test_the_join_file_is_asked_of_a_container_that_sees_it() -> None:
    page = (DEPLOY / "README.md").read_text()
    ((name, place),) = re.findall(r"exec deploy/fedglia-site -c (\w+) -- sh -c 'cat (\S+)/site/join-", page)
    mounts = containers("site")[name]["volumeMounts"]
    assert [mount for mount in mounts if mount["mountPath"] == place and mount["name"] == "site"]
