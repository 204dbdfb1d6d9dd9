"""docker-compose.yml and what it mounts fit the service: names, ports, configuration, secrets."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cdc.config import load_config

ROOT = Path(__file__).resolve().parents[3]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def environment_of(service: str) -> dict[str, str]:
    found: dict[str, str] = SERVICES[service]["environment"]
    return found


def test_the_configuration_loads_with_the_secrets_of_the_compose_file(tmp_path: Path) -> None:
    variables = {}
    for name, path in environment_of("cdc").items():
        secret = path.removeprefix("/run/secrets/")
        assert secret in SERVICES["cdc"]["secrets"]
        (tmp_path / secret).write_text("pass/word")
        variables[name] = str(tmp_path / secret)

    config = load_config(ROOT / "deploy/compose/config.yaml", environ=variables)

    assert config.source.url.host in SERVICES
    assert {sink.url.host for sink in config.sinks} <= SERVICES.keys()
    assert config.source.url.password.reveal() == "pass/word"


def test_every_secret_is_a_file_that_make_secrets_makes() -> None:
    script = (ROOT / "deploy/compose/make-secrets").read_text()
    match = re.search(r"^for name in (.*); do$", script, re.MULTILINE)
    assert match

    files = {name: Path(secret["file"]) for name, secret in COMPOSE["secrets"].items()}

    assert files == {name: Path("deploy/compose/secrets") / name for name in match[1].split()}
    assert {secret for service in SERVICES.values() for secret in service.get("secrets", [])} == files.keys()


def test_make_secrets_keeps_what_is_there(tmp_path: Path) -> None:
    place = tmp_path / "compose"
    (place / "secrets").mkdir(parents=True)
    script = place / "make-secrets"
    script.write_bytes((ROOT / "deploy/compose/make-secrets").read_bytes())
    environment = {"PATH": os.environ["PATH"]}

    def made() -> dict[str, str]:
        subprocess.run(["sh", str(script)], check=True, env=environment, capture_output=True)
        return {path.name: path.read_text() for path in (place / "secrets").iterdir()}

    first = made()

    assert made() == first
    assert first.keys() == COMPOSE["secrets"].keys()
    assert len(set(first.values())) == len(first)
    assert all(re.fullmatch("[0-9a-f]{48}", password) for password in first.values())


def test_no_password_stands_in_the_compose_file() -> None:
    for service in SERVICES.values():
        for name in service.get("environment", {}):
            assert "PASS" not in name or name.endswith("_FILE") or name == "MARIADB_RANDOM_ROOT_PASSWORD"


@pytest.mark.parametrize("service", SERVICES)
def test_ports_are_open_to_this_machine_only(service: str) -> None:
    for port in SERVICES[service].get("ports", []):
        assert port.startswith("127.0.0.1:")


def test_prometheus_scrapes_the_port_of_the_image() -> None:
    scrape = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text())["scrape_configs"]
    port = re.search(r"CDC__HTTP__PORT=(\d+)", DOCKERFILE)
    assert port

    assert [config["static_configs"] for config in scrape] == [[{"targets": [f"cdc:{port[1]}"]}]]
    assert SERVICES["cdc"]["ports"][0].endswith(f":{port[1]}")
    assert f"EXPOSE {port[1]}\n" in DOCKERFILE


def test_everything_that_is_mounted_is_in_the_repository() -> None:
    mounts = [volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])]
    paths = [ROOT / mount for mount in mounts if mount.startswith("./")]

    assert paths
    assert [path for path in paths if not path.exists()] == []


def test_what_the_dockerfile_copies_is_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        word for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE) for word in line.split()[:-1]
    }

    assert copied == kept


def test_the_source_script_is_sourced_not_executed() -> None:
    """The images' entry points execute a script that is executable, without docker_process_sql."""
    assert not os.access(ROOT / "deploy/compose/source/20-user.sh", os.X_OK)
