"""A PostgreSQL server of the tests' own, on loopback: started, killed, started again, and gone with its folder."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import psutil

PASSWORD = "s3cr@t/w:rd?#%"
"""Of the role ``ci``. What a URL gives a meaning to is in it."""
SECRETS = (PASSWORD, quote(PASSWORD, safe=""), "s3cr")
"""What no text may show."""


def why_not() -> str | None:
    """Why no server can be started here; None where one can."""
    if _binary("postgres") is None or _binary("initdb") is None:
        return "PostgreSQL is not installed: apt-get install postgresql"
    if os.getuid() == 0 and _user() is None:
        return "PostgreSQL does not run as root, and there is no user postgres"
    return None


def _alive(process: psutil.Process) -> bool:
    """What is dead may be listed until somebody has asked for its status."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _binary(name: str) -> str | None:
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    return str(installed[-1]) if installed else shutil.which(name)


def _user() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return None


class PostgresServer:
    """A cluster with the superuser ``postgres`` (no password) and the role ``ci``; as a context manager it runs."""

    def __init__(self) -> None:
        user = _user() if os.getuid() == 0 else None
        self._as = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self._folder = Path(tempfile.mkdtemp(prefix="carbon-postgres-"))
        if user is not None:
            os.chown(self._folder, user.pw_uid, user.pw_gid)
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def __enter__(self) -> PostgresServer:
        initdb = [_binary("initdb"), "-D", self._folder / "data", "-U", "postgres", "--no-sync", "-E", "UTF8"]
        subprocess.run(
            [*initdb, "--auth-local=trust", "--auth-host=scram-sha-256", "--no-locale"],
            check=True,
            capture_output=True,
            cwd=self._folder,
            **self._as,
        )
        self.start()
        self.sql(f"CREATE ROLE ci LOGIN PASSWORD '{PASSWORD}'")
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)  # at once: its data go with it
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self._folder,
            "shared_buffers": "16MB",
            "max_connections": 40,
            "fsync": "off",  # what is killed is the server, not the machine: what it has written is there
        }
        options = [f"-c{name}={value}" for name, value in settings.items()]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [_binary("postgres"), "-D", self._folder / "data", *options],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                start_new_session=True,  # Ctrl-C, and a test that signals its group, are not for it
                **self._as,
            )
        until_s = time.monotonic() + 60
        while True:
            try:
                return self.sql("SELECT 1")
            except Exception:
                if time.monotonic() > until_s or self._process.poll() is not None:
                    raise RuntimeError((self._folder / "log").read_text("utf-8", "replace")) from None
                time.sleep(0.05)

    def kill(self, *, alone: bool = False) -> None:
        """``kill -9``, the server and all that it started; or it ``alone``, which the others outlive until they see it.

        They are gone afterwards.
        """
        assert self._process is not None
        server = psutil.Process(self._process.pid)
        everyone = [server, *server.children(recursive=True)]
        for process in everyone[: 1 if alone else None]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self._process.wait(20)
        until_s = time.monotonic() + 20
        while any(map(_alive, everyone)) and time.monotonic() < until_s:
            time.sleep(0.005)
        self._process = None

    def sql(self, *statements: str, database: str = "postgres") -> None:
        """Run statements as the superuser."""
        import psycopg

        where = {"host": str(self._folder), "port": self.port, "user": "postgres", "dbname": database}
        with psycopg.connect(**where, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    def database(self) -> str:
        """A new database of ``ci``'s: its URL, password and all."""
        status = None if self._process is None else self._process.poll()
        if self._process is None or status is not None:
            log = (self._folder / "log").read_text("utf-8", "replace")[-2000:]
            raise RuntimeError(f"PostgreSQL is not running any more (exit status {status}): {log}")
        name = f"carbon_{next(self._numbers)}"
        self.sql(f"CREATE DATABASE {name} OWNER ci")
        return self.url(name)

    def url(self, database: str, *, password: str = PASSWORD) -> str:
        return f"postgresql+psycopg://ci:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"

    def local(self, url: str) -> str:
        """The same database by way of a socket, where no password is asked for: what takes time is only the work."""
        return f"postgresql+psycopg://ci@/{url.rpartition('/')[2]}?host={self._folder}&port={self.port}"
