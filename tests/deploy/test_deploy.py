"""Checks what `deploy/` ships: against schemas and linters, and for what no schema knows.

tests/run prepares everything and runs this. Alone:

    .lab/venv/bin/pytest tests/deploy

After a wanted change of deploy/kustomize, take the new rendering over and read its diff:

    for name in base transit spire; do kubectl kustomize deploy/kustomize/$name > tests/deploy/golden/$name.yaml; done
"""

import difflib
import ipaddress
import os
import re
import shutil
import subprocess
import sys
import tomllib
import urllib.parse
from pathlib import Path, PurePosixPath

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
KUSTOMIZE = ROOT / "deploy/kustomize"
DOCKERFILE = ROOT / "deploy/Dockerfile"
GOLDEN = Path(__file__).parent / "golden"
UNIT = ROOT / "deploy/systemd/kodo-broker.service"

# What `spec` must hold for Pod Security "restricted", by path.
RESTRICTED_POD = {
    ("securityContext", "runAsNonRoot"): True,
    ("securityContext", "seccompProfile", "type"): "RuntimeDefault",
}
RESTRICTED_CONTAINER = {
    ("securityContext", "allowPrivilegeEscalation"): False,
    ("securityContext", "capabilities"): {"drop": ["ALL"]},
    ("securityContext", "readOnlyRootFilesystem"): True,
    ("securityContext", "runAsNonRoot"): True,
}
RESTRICTED_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}
# Annotations by which a mesh's proxy is told to let a port by.
CAPTURE_EXCLUSIONS = {
    "config.linkerd.io/skip-inbound-ports",
    "traffic.sidecar.istio.io/excludeInboundPorts",
    "traffic.sidecar.istio.io/includeInboundPorts",
}
NEVER_REACHED = ["10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "100.100.100.200", "fd00:ec2::254", "fe80::1"]


# Tools

def tool(name):
    """The path of a program, from PATH or from the virtual environment that runs this."""
    beside = Path(sys.executable).parent
    found = shutil.which(name) or shutil.which(name, path=beside)
    assert found, f"{name} is missing: tests/run installs it"
    return found


def run(*command):
    """Runs a command and returns its exit status and everything it printed."""
    done = subprocess.run(
        [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=120, check=False,
    )
    return done.returncode, done.stdout


def dig(tree, path):
    """The value at a path of keys, or None."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def config(path):
    return tomllib.loads((ROOT / path).read_text())


def port_of(address):
    return int(address.rsplit(":", 1)[1])


# Kubernetes

def render(name):
    done = subprocess.run(
        [tool("kubectl"), "kustomize", KUSTOMIZE / name], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def rendered():
    return render("base")


@pytest.fixture(scope="module")
def objects(rendered):
    return list(yaml.safe_load_all(rendered))


@pytest.fixture(scope="module")
def stateful_set(objects):
    return only(objects, "StatefulSet")


@pytest.fixture(scope="module")
def pod(stateful_set):
    return stateful_set["spec"]["template"]


@pytest.fixture(scope="module")
def container(pod):
    (container,) = pod["spec"]["containers"]
    return container


@pytest.fixture(scope="module")
def broker(objects):
    """The broker's configuration as it reaches the pod, not as it lies beside the manifests."""
    return tomllib.loads(only(objects, "ConfigMap")["data"]["broker.toml"])


def only(objects, kind):
    (found,) = [o for o in objects if o["kind"] == kind]
    return found


def mount_of(container, path):
    """The mount that a path inside the container comes from: the longest that it lies below."""
    path = PurePosixPath(path)
    mounts = [m for m in container["volumeMounts"] if path.is_relative_to(m["mountPath"])]
    assert mounts, f"nothing is mounted at or above {path}"
    return max(mounts, key=lambda mount: len(mount["mountPath"]))


def volume_of(pod, mount):
    return next((v for v in pod["spec"]["volumes"] if v["name"] == mount["name"]), None)


@pytest.mark.parametrize("name", ["base", "transit", "spire"])
def test_manifest_is_the_golden_one(name):
    diff = "".join(difflib.unified_diff(
        (GOLDEN / f"{name}.yaml").read_text().splitlines(keepends=True), render(name).splitlines(keepends=True), "golden", "rendered",
    ))
    assert not diff, f"if this is wanted, take it over (see the head of this file):\n{diff}"


@pytest.mark.parametrize("name", ["base", "transit", "spire"])
def test_manifest_satisfies_the_schemas(name, tmp_path):
    manifest = tmp_path / f"{name}.yaml"
    manifest.write_text(render(name))
    status, output = run(tool("kubernetes-validate"), "--strict", manifest)
    assert status == 0, output
    # A kind without a schema is a mere warning, and would not have been checked.
    assert "WARN" not in output, output
    assert output.count(" passed for resource ") == len(list(yaml.safe_load_all(manifest.read_text()))), output


def test_every_object_fits_any_namespace(objects):
    assert [o["metadata"]["name"] for o in objects if "namespace" in o["metadata"]] == []


def test_no_secret_is_shipped(objects):
    assert "Secret" not in {o["kind"] for o in objects}


def test_every_selector_matches_the_pod(objects, stateful_set, pod):
    labels = pod["metadata"]["labels"].items()
    selectors = {
        "StatefulSet": stateful_set["spec"]["selector"]["matchLabels"],
        "PodDisruptionBudget": only(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        "NetworkPolicy": only(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    }
    for service in (o for o in objects if o["kind"] == "Service"):
        selectors[service["metadata"]["name"]] = service["spec"]["selector"]
    for owner, selector in selectors.items():
        assert selector and selector.items() <= labels, f"{owner} selects {selector}"


def test_pod_meets_the_restricted_standard(pod, container):
    for path, wanted in RESTRICTED_POD.items():
        assert dig(pod["spec"], path) == wanted, path
    for path, wanted in RESTRICTED_CONTAINER.items():
        assert dig(container, path) == wanted, path
    context = pod["spec"]["securityContext"]
    assert context["runAsUser"] == context["runAsGroup"] == context["fsGroup"] == 65532
    assert context["fsGroupChangePolicy"] == "OnRootMismatch"
    for key in ("hostNetwork", "hostPID", "hostIPC", "initContainers", "ephemeralContainers"):
        assert key not in pod["spec"], key
    for volume in pod["spec"]["volumes"]:
        assert volume.keys() - {"name"} <= RESTRICTED_VOLUMES, volume
    assert not any("hostPort" in port for port in container["ports"])


def test_pod_has_no_standing_in_the_cluster(objects, pod):
    account = only(objects, "ServiceAccount")
    assert pod["spec"]["serviceAccountName"] == account["metadata"]["name"]
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert account["automountServiceAccountToken"] is False
    assert pod["spec"]["enableServiceLinks"] is False


def test_nothing_comes_by_environment(container):
    assert not container.keys() & {"env", "envFrom"}


def test_store_has_one_writer(objects, stateful_set, pod, container, broker):
    spec = stateful_set["spec"]
    assert broker["store"]["kind"] == "sled"
    assert spec["replicas"] == 1
    claims = {claim["metadata"]["name"]: claim for claim in spec["volumeClaimTemplates"]}
    assert all(claim["spec"]["accessModes"] == ["ReadWriteOncePod"] for claim in claims.values())
    assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    mount = mount_of(container, broker["store"]["directory"])
    assert mount["name"] in claims and volume_of(pod, mount) is None
    headless = [o["metadata"]["name"] for o in objects if o["kind"] == "Service" and o["spec"].get("clusterIP") == "None"]
    assert headless == [spec["serviceName"]]


def test_only_the_store_and_the_audit_log_are_writable(container, broker):
    writable = [m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")]
    parents = [PurePosixPath(file).parent for file in (broker["store"]["directory"], broker["audit"]["file"])]
    assert writable == [str(parent) for parent in parents]


def test_audit_log_is_kept_apart_from_the_store(stateful_set, pod, container, broker):
    mount = mount_of(container, broker["audit"]["file"])
    assert mount["name"] != mount_of(container, broker["store"]["directory"])["name"]
    assert mount["name"] in [claim["metadata"]["name"] for claim in stateful_set["spec"]["volumeClaimTemplates"]]
    assert volume_of(pod, mount) is None


def test_audit_key_lies_apart_from_the_log_that_it_vouches_for(pod, container, broker):
    key = mount_of(container, broker["audit"]["key_file"])
    others = [broker["audit"]["file"], broker["audit"]["anchor_file"], broker["kek"]["file"]]
    assert key["readOnly"] and key["name"] not in [mount_of(container, path)["name"] for path in others]
    assert volume_of(pod, key)["secret"]["defaultMode"] == 0o440


def test_kek_lies_apart_from_what_it_opens(pod, container, broker):
    kek = mount_of(container, broker["kek"]["file"])
    others = [broker["store"]["directory"], broker["server"]["tls"]["key_file"], broker["policy"]["file"]]
    assert kek["name"] not in [mount_of(container, path)["name"] for path in others]
    volume = volume_of(pod, kek)
    assert volume["secret"]["secretName"] == "broker-kek"
    assert volume["secret"]["defaultMode"] == 0o440


def test_every_configured_file_reaches_the_pod(objects, pod, container, broker):
    keys = {"broker-tls": {"tls.crt", "tls.key", "ca.crt"}, "broker-kek": {"kek"}, "broker-audit-key": {"key"}}
    config_map = only(objects, "ConfigMap")
    keys[config_map["metadata"]["name"]] = set(config_map["data"])
    tls = broker["server"]["tls"]
    wanted = [
        container["args"][container["args"].index("--config") + 1], broker["policy"]["file"],
        tls["certificate_file"], tls["key_file"], broker["identity"]["client_ca_file"], broker["kek"]["file"],
        broker["audit"]["key_file"],
    ]
    for path in wanted:
        mount = mount_of(container, path)
        volume = volume_of(pod, mount)
        source = dig(volume, ["secret", "secretName"]) or dig(volume, ["configMap", "name"])
        assert str(PurePosixPath(path).relative_to(mount["mountPath"])) in keys[source], path
    assert volume_of(pod, mount_of(container, tls["key_file"]))["secret"]["defaultMode"] == 0o440


def test_ports_are_those_of_the_configuration(objects, container, broker):
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    listen, health = broker["server"]["listen"], broker["server"]["health_listen"]
    assert ports == {"tls-grpc": port_of(listen), "health": port_of(health)}
    # kubelet calls the pod's address, not its loopback.
    assert health.startswith("0.0.0.0:") and listen.startswith("0.0.0.0:")
    for service in (o for o in objects if o["kind"] == "Service"):
        (port,) = service["spec"]["ports"]
        assert ports[port["targetPort"]] == port["port"] == port_of(listen), service["metadata"]["name"]


def test_probes_ask_the_health_port(container, broker):
    health = port_of(broker["server"]["health_listen"])
    asked = {name: container[name]["grpc"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert asked == {
        "startupProbe": {"port": health, "service": "liveness"},
        "livenessProbe": {"port": health, "service": "liveness"},
        "readinessProbe": {"port": health, "service": "readiness"},
    }


def test_meshes_capture_the_port_and_pass_it_through(objects, pod):
    services = [o for o in objects if o["kind"] == "Service"]
    for owner in [*services, pod]:
        annotations = owner["metadata"].get("annotations", {})
        assert not annotations.keys() & CAPTURE_EXCLUSIONS
        assert annotations["config.linkerd.io/opaque-ports"] == "8443"
    for service in services:
        (port,) = service["spec"]["ports"]
        assert port["name"].startswith("tls-") and "appProtocol" not in port


def test_kubernetes_waits_longer_than_the_broker_drains(pod, broker):
    assert pod["spec"]["terminationGracePeriodSeconds"] > broker["server"]["limits"]["drain_seconds"] + 5


def test_memory_is_reserved_whole_so_that_none_is_swapped(container):
    assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]
    assert "cpu" not in container["resources"]["limits"]


def test_a_node_can_be_drained(objects):
    spec = only(objects, "PodDisruptionBudget")["spec"]
    assert spec["maxUnavailable"] == 1 and "minAvailable" not in spec


def test_callers_are_let_in_by_label_alone(objects, broker):
    spec = only(objects, "NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    by_port = {rule["ports"][0]["port"]: rule for rule in spec["ingress"]}
    assert all(len(rule["ports"]) == 1 for rule in spec["ingress"])
    assert by_port.keys() == {port_of(broker["server"][key]) for key in ("listen", "health_listen")}
    (peer,) = by_port[port_of(broker["server"]["listen"])]["from"]
    assert peer == {
        "namespaceSelector": {"matchLabels": {"broker.kodo/clients": "allowed"}},
        "podSelector": {"matchExpressions": [
            {"key": "broker.kodo/client", "operator": "In", "values": ["worker", "operator"]},
        ]},
    }


def test_the_way_out_leads_to_dns_and_the_internet_only(objects):
    dns, https = only(objects, "NetworkPolicy")["spec"]["egress"]
    assert {(p["port"], p["protocol"]) for p in dns["ports"]} == {(53, "UDP"), (53, "TCP")}
    assert https["ports"] == [{"port": 443, "protocol": "TCP"}]

    def reached(address):
        address = ipaddress.ip_address(address)
        blocks = [peer["ipBlock"] for peer in https["to"]]
        return any(
            address in ipaddress.ip_network(block["cidr"])
            and not any(address in ipaddress.ip_network(net) for net in block.get("except", []))
            for block in blocks
        )

    assert [address for address in NEVER_REACHED if reached(address)] == []
    assert reached("20.190.128.1") and reached("2603:1006:2000::1")


# With the KEK in OpenBao

@pytest.fixture(scope="module")
def with_transit():
    return list(yaml.safe_load_all(render("transit")))


@pytest.fixture(scope="module")
def transit(with_transit):
    kek = tomllib.loads(only(with_transit, "ConfigMap")["data"]["broker.toml"])["kek"]
    assert kek.keys() == {"transit"}, "no key in a file beside it"
    return kek["transit"]


def test_transit_changes_nothing_but_the_kek(objects, with_transit):
    def without_kek(objects):
        text = yaml.safe_dump_all(objects)
        text = text.replace(only(objects, "ConfigMap")["metadata"]["name"], "broker-config")
        objects = list(yaml.safe_load_all(text))
        spec = only(objects, "StatefulSet")["spec"]["template"]["spec"]
        spec["volumes"] = [volume for volume in spec["volumes"] if volume["name"] != "kek"]
        policy = only(objects, "NetworkPolicy")["spec"]
        policy["egress"] = [rule for rule in policy["egress"] if rule["ports"][0]["port"] in (53, 443)]
        data = only(objects, "ConfigMap")["data"]
        data["broker.toml"] = tomllib.loads(data["broker.toml"]) | {"kek": None}
        return objects

    assert without_kek(with_transit) == without_kek(objects)


def test_transit_shows_a_token_for_openbao_alone(with_transit, transit):
    pod = only(with_transit, "StatefulSet")["spec"]["template"]
    assert pod["spec"]["automountServiceAccountToken"] is False
    (container,) = pod["spec"]["containers"]
    paths = [transit["kubernetes"]["jwt_file"], transit["ca_file"]]
    mounts = [mount_of(container, path) for path in paths]
    assert mounts[0] == mounts[1] and mounts[0]["readOnly"]
    token, ca = volume_of(pod, mounts[0])["projected"]["sources"]
    assert token["serviceAccountToken"]["audience"] == "openbao"
    assert token["serviceAccountToken"]["expirationSeconds"] == 600
    below = [str(PurePosixPath(path).relative_to(mounts[0]["mountPath"])) for path in paths]
    assert below == [token["serviceAccountToken"]["path"], ca["configMap"]["items"][0]["path"]]


def test_transit_opens_the_way_to_openbao_alone(objects, with_transit, transit):
    added = [
        rule for rule in only(with_transit, "NetworkPolicy")["spec"]["egress"]
        if rule not in only(objects, "NetworkPolicy")["spec"]["egress"]
    ]
    ((peer,),) = [rule["to"] for rule in added]
    address = urllib.parse.urlsplit(transit["address"])
    assert address.scheme == "https"
    assert [rule["ports"] for rule in added] == [[{"port": address.port, "protocol": "TCP"}]]
    namespace = peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
    assert address.hostname.split(".")[1] == namespace and peer["podSelector"]["matchLabels"]


# Configuration files

# With certificates from SPIRE

def test_spire_changes_nothing_but_where_certificates_come_from(objects):
    with_spire = list(yaml.safe_load_all(render("spire")))

    def without_certificates(objects):
        text = yaml.safe_dump_all(objects)
        text = text.replace(only(objects, "ConfigMap")["metadata"]["name"], "broker-config")
        objects = list(yaml.safe_load_all(text))
        spec = only(objects, "StatefulSet")["spec"]["template"]["spec"]
        for of in (spec, *spec["containers"]):
            key = "volumes" if of is spec else "volumeMounts"
            of[key] = [item for item in of[key] if item["name"] not in ("tls", "spire")]
        data = only(objects, "ConfigMap")["data"]
        configuration = tomllib.loads(data["broker.toml"])
        configuration["server"]["tls"] = None
        configuration["identity"].pop("client_ca_file", None)
        data["broker.toml"] = configuration
        return objects

    assert without_certificates(with_spire) == without_certificates(objects)


def test_spire_gives_its_socket_to_the_pod_and_no_key_is_stored():
    with_spire = list(yaml.safe_load_all(render("spire")))
    pod = only(with_spire, "StatefulSet")["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    tls = tomllib.loads(only(with_spire, "ConfigMap")["data"]["broker.toml"])["server"]["tls"]
    assert tls["source"] == "workload_api" and not tls.keys() & {"certificate_file", "key_file"}
    mount = mount_of(container, urllib.parse.urlsplit(tls["socket"]).path)
    assert mount["readOnly"]
    assert volume_of(pod, mount)["csi"] == {"driver": "csi.spiffe.io", "readOnly": True}
    assert "broker-tls" not in yaml.safe_dump_all(with_spire)


@pytest.mark.parametrize(("broker_file", "policy_file"), [
    ("deploy/broker.toml", "deploy/policy.toml"),
    ("deploy/systemd/broker.toml", "deploy/policy.toml"),
    ("deploy/envoy/broker.toml", "deploy/policy.toml"),
    ("deploy/kustomize/base/broker.toml", "deploy/kustomize/base/policy.toml"),
])
def test_policy_speaks_of_the_trust_domain(broker_file, policy_file):
    domain = config(broker_file)["identity"]["trust_domain"]
    callers = [caller for grant in config(policy_file)["grant"] for caller in grant["callers"]]
    assert callers and all(caller.startswith(f"spiffe://{domain}/") for caller in callers)


@pytest.mark.parametrize("path", [
    "deploy/systemd/broker.toml", "deploy/envoy/broker.toml", "deploy/kustomize/base/broker.toml", "deploy/kustomize/transit/broker.toml",
    "deploy/kustomize/spire/broker.toml",
])
def test_configuration_names_only_documented_options(path):
    text = (ROOT / "deploy/broker.toml").read_text()
    # With what it only mentions.
    reference = tomllib.loads(re.sub(r"(?m)^# (\[\[?[\w.]+\]\]?|\w+ = \S.*)$", r"\1", text))
    for table, options in config(path).items():
        unknown = options.keys() - reference.get(table, {}).keys()
        assert not unknown, f"[{table}] {unknown}"


# Image

def dockerfile():
    """Instructions of the Dockerfile, continuation lines joined."""
    lines = re.sub(r"\\\n\s*", "", DOCKERFILE.read_text()).splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def test_dockerfile_passes_hadolint():
    status, output = run(tool("hadolint"), "--failure-threshold", "style", DOCKERFILE)
    assert status == 0 and not output.strip(), output


def test_image_holds_the_broker_without_the_simulator():
    (build,) = [line for line in dockerfile() if "cargo build" in line]
    assert "cargo build --release --locked --no-default-features --features server,cli " in build


def test_container_is_run_without_swap_and_core_files():
    command = " ".join(line.lstrip("# \\").rstrip("\\ ") for line in DOCKERFILE.read_text().splitlines()[:12])
    assert re.search(r"--memory (\S+) --memory-swap \1 ", command) and "--ulimit core=0" in command


def test_image_runs_as_nobody_and_asks_its_own_health():
    final = dockerfile()
    final = final[max(i for i, line in enumerate(final) if line.startswith("FROM ")):]
    server = config("deploy/broker.toml")["server"]
    listen, health = port_of(server["listen"]), port_of(server["health_listen"])
    assert "USER 65532:65532" in final
    assert f"EXPOSE {listen} {health}" in final
    assert 'ENTRYPOINT ["/kodo-broker"]' in final
    assert 'CMD ["serve", "--config", "/etc/kodo-broker/broker.toml"]' in final
    (check,) = [line for line in final if line.startswith("HEALTHCHECK ")]
    assert check.endswith(f'CMD ["/kodo-broker", "healthcheck", "--endpoint", "http://127.0.0.1:{health}"]')
    # Nothing may need a shell, which the runtime image has not.
    assert not [line for line in final if line.startswith(("RUN ", "SHELL "))]
    assert not re.search(r"(?m)^(ENTRYPOINT|CMD) [^\[]", "\n".join(final))


def test_build_context_holds_what_cargo_reads_and_little_else():
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*", "everything is left out unless named"
    kept = [line[1:] for line in lines if line.startswith("!")]
    manifest = config("Cargo.toml")
    wanted = {"Cargo.toml", "Cargo.lock", "build.rs", "proto", "src"}
    for kind in ("bin", "test", "bench", "example"):
        wanted |= {target["path"] for target in manifest.get(kind, []) if "path" in target}
        if any("path" not in target for target in manifest.get(kind, [])):
            wanted.add({"bin": "src", "test": "tests", "bench": "benches", "example": "examples"}[kind])
    for source in (ROOT / "src").rglob("*.rs"):
        if source.name == "tests.rs" or "tests" in source.parts:
            continue  # Not compiled into the program.
        for name in re.findall(r'include(?:_str|_bytes)?!\(\s*"([^"]+)"', source.read_text()):
            wanted.add(str((source.parent / name).resolve().relative_to(ROOT)))
    missing = [path for path in wanted if not any(PurePosixPath(path).is_relative_to(name) for name in kept)]
    assert missing == []
    assert "deploy" not in kept and "." not in kept


# systemd

def unit():
    """Settings of the unit: every value that is given for a name, in order."""
    settings = {}
    for line in UNIT.read_text().splitlines():
        if line and line[0] not in "#;[":
            name, value = line.split("=", 1)
            settings.setdefault(name, []).append(value)
    return settings


def test_systemd_accepts_the_unit(tmp_path):
    # systemd-analyze wants the program to exist, which on this machine it does not.
    copy = tmp_path / UNIT.name
    text = UNIT.read_text()
    assert text.count("ExecStart=/usr/local/bin/kodo-broker ") == 1
    copy.write_text(text.replace("/usr/local/bin/kodo-broker", "/bin/true"))
    status, output = run(tool("systemd-analyze"), "verify", "--man=no", "--recursive-errors=no", copy)
    assert status == 0 and not output.strip(), output


def test_unit_is_hardly_exposed():
    status, output = run(tool("systemd-analyze"), "security", "--offline=true", "--threshold=20", "--no-pager", UNIT)
    assert status == 0, output


def test_unit_keeps_keys_out_of_core_files_and_swap():
    settings = unit()
    assert settings["LimitCORE"] == ["0"]
    assert settings["MemorySwapMax"] == ["0"]
    assert settings["LimitMEMLOCK"] == ["infinity"]
    assert settings["NoNewPrivileges"] == ["yes"]
    assert settings["UMask"] == ["0077"]
    # The broker does not tell systemd that it is ready.
    assert settings["Type"] == ["exec"]


def syscalls(group):
    """Those of a group of systemd's, with the groups in it."""
    status, output = run(tool("systemd-analyze"), "syscall-filter", "--no-pager", group)
    assert status == 0, output
    names = {line.strip() for line in output.splitlines()[1:] if not line.strip().startswith("#")}
    return {call for name in names for call in (syscalls(name) if name.startswith("@") else {name})}


def test_unit_lets_the_broker_put_up_its_guards():
    allowed = set()
    for line in unit()["SystemCallFilter"]:
        for group in line.removeprefix("~").split():
            allowed = allowed - syscalls(group) if line.startswith("~") else allowed | syscalls(group)
    assert {"mlockall", "prctl", "prlimit64", "umask"} <= allowed
    assert not {"ptrace", "setrlimit", "swapon"} & allowed


def test_unit_hands_over_the_files_of_its_configuration():
    settings, broker = unit(), config("deploy/systemd/broker.toml")
    credentials = dict(value.split(":", 1) for value in settings["LoadCredential"])
    folder = f"/run/credentials/{UNIT.name}"
    assert broker["kek"]["file"] == f"{folder}/kek" and "kek" in credentials
    assert broker["server"]["tls"]["key_file"] == f"{folder}/tls.key" and "tls.key" in credentials
    assert broker["audit"]["key_file"] == f"{folder}/audit.key" and "audit.key" in credentials
    assert settings["StateDirectory"] == ["kodo-broker"]
    assert broker["store"]["directory"] == "/var/lib/kodo-broker/store"
    assert settings["LogsDirectory"] == ["kodo-broker"] and settings["LogsDirectoryMode"] == ["0700"]
    assert str(PurePosixPath(broker["audit"]["file"]).parent) == "/var/log/kodo-broker"
    assert not any(path.startswith("/var/lib/") for path in credentials.values())


def test_systemd_waits_longer_than_the_broker_drains():
    drain = config("deploy/systemd/broker.toml")["server"]["limits"]["drain_seconds"]
    assert int(unit()["TimeoutStopSec"][0]) > drain + 5


# The program

@pytest.mark.parametrize(("command", "option"), [("serve", "--config"), ("healthcheck", "--endpoint")])
def test_program_knows_the_commands_given_here(command, option):
    program = os.environ.get("KODO_BROKER_BIN")
    if not program:
        pytest.skip("KODO_BROKER_BIN names no built program; tests/run sets it")
    status, output = run(program, command, "--help")
    assert status == 0 and option in output, output
