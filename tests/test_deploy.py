"""The files of docs/deploy agree with the image, with the command line and with each other; no engine is needed."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.command import options_of
from tests.images import exec_form, read_stages

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "docs" / "deploy"
STAGES = read_stages((ROOT / "Containerfile").read_text())
IMAGE = STAGES["onnx"].settings
PORT = IMAGE["EXPOSE"]
# Tools that `make deploy-tools` installs.
TOOLS = ROOT / "build" / "deploy-tools" / "bin"


def read(name):
    return yaml.safe_load((DEPLOY / name).read_text())


def tool(name):
    """The path of a tool; the test is left out where there is none."""
    path = shutil.which(name, path=f"{TOOLS}:{os.environ['PATH']}")
    return path or pytest.skip(f"no {name} here: make deploy-tools installs it")


def bytes_of(size):
    """``1Gi``, ``1G`` and ``1g`` as bytes."""
    number, unit = re.fullmatch(r"(\d+)([MG])i?", size.upper().replace("I", "i")).groups()
    return int(number) << {"M": 20, "G": 30}[unit]


def test_the_image_serves_as_the_command_line_says():
    command = exec_form(IMAGE["ENTRYPOINT"])
    assert command[:3] == ["/opt/delrec/bin/delrec-lite", "serve", "/bundle"]
    assert options_of(command) == ["--host", "--port"]


def test_compose_mounts_what_exists_and_joins_what_belongs_together():
    compose = read("compose.yaml")
    services = compose["services"]
    server, prometheus, grafana = (services[name] for name in ("delrec", "prometheus", "grafana"))
    build = server["build"]
    assert (DEPLOY / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()
    assert build["target"] in STAGES
    options_of(server["command"])
    assert {server["ports"][0].rpartition(":")[2]} == {PORT}
    assert (server["read_only"], server["cap_drop"]) == (True, ["ALL"])
    for service in services.values():
        assert re.search(r":v?\d+\.\d+|^delrec$", service["image"]), "a version, not latest"
        assert all(published.startswith("127.0.0.1:") for published in service.get("ports", []))
        for mount in service.get("volumes", []):
            source = mount.split(":")[0] if not mount.startswith("${") else None
            if source and source.startswith("."):
                assert (DEPLOY / source).is_file(), source
                assert mount.endswith(":ro")
            elif source:
                assert source in compose["volumes"]
    key = compose["secrets"]["shop-key"]["environment"]
    assert key in server["environment"]
    assert server["command"] == ["--api-key-env", key]
    job = read("prometheus.yml")["scrape_configs"][0]
    assert job["authorization"]["credentials_file"] == f"/run/secrets/{prometheus['secrets'][0]}"
    assert job["static_configs"][0]["targets"] == [f"delrec:{PORT}"]
    assert job.get("metrics_path", "/metrics") == "/metrics"
    mounted = {mount.split(":")[1]: DEPLOY / mount.split(":")[0] for mount in grafana["volumes"][:3]}
    (provider,) = read("grafana/dashboards.yml")["providers"]
    assert any(path.startswith(provider["options"]["path"]) for path in mounted)
    (source,) = read("grafana/datasource.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert all(path.startswith(("/etc/grafana/provisioning/", "/var/lib/grafana/dashboards/")) for path in mounted)


def test_the_pods_are_confined_and_probed():
    deployment, service, scaler, budget = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    uid, gid = IMAGE["USER"].split(":")
    assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]) == (int(uid), int(gid))
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    options_of(container["args"])
    assert container["args"][1] in {variable["name"] for variable in container["env"]}
    (port,) = container["ports"]
    assert str(port["containerPort"]) == PORT
    probes = {name: container[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startupProbe": "/readyz",
        "readinessProbe": "/readyz",
        "livenessProbe": "/healthz",
    }
    assert {probe["port"] for probe in probes.values()} == {port["name"]} == {service["spec"]["ports"][0]["targetPort"]}
    (mount,) = container["volumeMounts"]
    assert (mount["mountPath"], mount["readOnly"]) == (exec_form(IMAGE["ENTRYPOINT"])[2], True)
    assert {mount["name"]} == {volume["name"] for volume in pod["volumes"]}
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    selectors = [deployment["spec"]["selector"]["matchLabels"], service["spec"]["selector"]]
    assert [*selectors, budget["spec"]["selector"]["matchLabels"]] == [labels] * 3
    assert service["spec"]["sessionAffinity"] == "ClientIP"
    target = scaler["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == (deployment["kind"], deployment["metadata"]["name"])
    assert "replicas" not in deployment["spec"]
    assert budget["spec"]["minAvailable"] < scaler["spec"]["minReplicas"] < scaler["spec"]["maxReplicas"]
    resources = container["resources"]
    assert bytes_of(resources["requests"]["memory"]) <= bytes_of(resources["limits"]["memory"])


def test_the_gateway_sends_a_session_to_one_pod_of_the_service():
    _, service, *_ = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    route, policy = yaml.safe_load_all((DEPLOY / "kubernetes-gateway.yaml").read_text())
    backend = route["spec"]["rules"][0]["backendRefs"][0]
    assert (backend["name"], backend["port"]) == (service["metadata"]["name"], service["spec"]["ports"][0]["port"])
    (target,) = policy["spec"]["targetRefs"]
    assert (target["kind"], target["name"]) == (route["kind"], route["metadata"]["name"])
    assert policy["spec"]["loadBalancer"]["consistentHash"]["header"]["name"] == "x-session"


def test_every_place_gives_the_server_the_same_time_and_memory():
    deployment, *_ = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    server = read("compose.yaml")["services"]["delrec"]
    unit = (DEPLOY / "delrec.service").read_text()
    pod = deployment["spec"]["template"]["spec"]
    seconds = pod["terminationGracePeriodSeconds"]
    graceful = re.search(r"timeout_graceful_shutdown=(\d+)", (ROOT / "delrec_lite/server/serve.py").read_text())
    assert seconds > int(graceful[1])
    assert server["stop_grace_period"] == f"{seconds}s"
    assert f"TimeoutStopSec={seconds}\n" in unit
    limit = bytes_of(pod["containers"][0]["resources"]["limits"]["memory"])
    assert {bytes_of(server["mem_limit"]), bytes_of(re.search(r"MemoryMax=(\w+)", unit)[1])} == {limit}


def test_the_unit_starts_what_the_command_line_has_and_systemd_accepts_it(tmp_path):
    unit = (DEPLOY / "delrec.service").read_text()
    command = re.search(r"^ExecStart=(.*)", unit, re.MULTILINE)[1].split()
    assert command[1] == "serve"
    options_of(command)
    program = tmp_path / "delrec-lite"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (tmp_path / "delrec.service").write_text(unit.replace(command[0], str(program)))
    verify = [tool("systemd-analyze"), "verify", "--man=no", tmp_path / "delrec.service"]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    security = [verify[0], "security", "--offline=true", "--threshold=20", tmp_path / "delrec.service"]
    done = subprocess.run(security, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout.splitlines()[-1]


def test_the_containerfile_passes_hadolint():
    done = subprocess.run([tool("hadolint"), ROOT / "Containerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_kubernetes_knows_every_field():
    check = [tool("kubernetes-validate"), "--strict", DEPLOY / "kubernetes.yaml"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", ["serving.md", "deploy/README.md", "security.md"])
def test_what_a_page_shows_is_in_one_place_alone(page):
    text = (ROOT / "docs" / page).read_text()
    assert "[Service]" not in text
    assert "kind: Deployment" not in text
