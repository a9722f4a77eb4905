"""Where the agents of a broker are found: the same on every node, and harmless to print."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from ray_anystorage.credentials.lease import AZURE_FILE, GOOGLE_FILE, Kind

HOST = "127.0.0.1"
TOKEN_FILE = "token"  # noqa: S105 - a name
URI_VARIABLE = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
TOKEN_VARIABLE = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"  # noqa: S105 - a name
GOOGLE_VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"
AZURE_VARIABLE = "ANYSTORAGE_AZURE_CREDENTIALS_FILE"  # no SDK of Azure's reads a variable that names such a file

_PORTS = range(20000, 30000)  # below the ports that systems give to clients
_LEADING: dict[Kind, str] = {"aws": TOKEN_VARIABLE, "google": GOOGLE_VARIABLE, "azure": AZURE_VARIABLE}
_ID = re.compile(r"\d{5}-[0-9a-f]{12}")
_FOLDER = "anystorage"
_TIMEOUT = 5.0  # seconds


@dataclass(frozen=True, slots=True)
class AgentAddress:
    """One broker's place on every node.

    Attributes
    ----------
    broker
        Its id, which begins with the port.
    root
        The directory on a memory file system that its folder is made in.
    """

    broker: str
    root: str

    @property
    def port(self) -> int:
        """On loopback."""
        return int(self.broker.partition("-")[0])

    @property
    def path(self) -> str:
        """The only one that an agent answers for."""
        return f"/{_FOLDER}/{self.broker}"

    @property
    def folder(self) -> str:
        """Where the token, and Google's or Azure's file, are."""
        return os.path.join(self.root, f"{_FOLDER}-{self.broker}")

    def variables(self, kind: Kind) -> dict[str, str]:
        """What leads an SDK here; for Azure, this package's own clients."""
        if kind == "google":
            return {GOOGLE_VARIABLE: os.path.join(self.folder, GOOGLE_FILE)}
        if kind == "azure":
            return {AZURE_VARIABLE: os.path.join(self.folder, AZURE_FILE)}
        return {
            URI_VARIABLE: f"http://{HOST}:{self.port}{self.path}",
            TOKEN_VARIABLE: os.path.join(self.folder, TOKEN_FILE),
        }

    def ask(self) -> tuple[int, str]:
        """The agent's status and words, asked as a client does; status 0 where none answers."""
        try:
            with open(os.path.join(self.folder, TOKEN_FILE), encoding="ascii") as file:
                token = file.read()
        except OSError as error:
            return 0, f"{error.strerror}: {error.filename}"
        connection = http.client.HTTPConnection(HOST, self.port, timeout=_TIMEOUT)
        with contextlib.closing(connection):
            try:
                connection.request("GET", self.path, headers={"Authorization": token})
                answer = connection.getresponse()
                said = answer.read()
            except (OSError, http.client.HTTPException) as error:
                return 0, f"{HOST}:{self.port}: {error}"
        return answer.status, "" if answer.status < 300 else said.decode(errors="replace")

    def serves(self) -> bool:
        """Whether an agent on this node has credentials to give."""
        return 200 <= self.ask()[0] < 300


def new_address(root: str) -> tuple[AgentAddress, socket.socket]:
    """An address whose port is free on this node, with the socket that keeps it so."""
    while True:
        port = secrets.choice(_PORTS)  # whatever seed user code gives to ``random``, drivers differ
        held = socket.socket()
        try:
            held.bind((HOST, port))
        except OSError:
            held.close()
            continue
        return AgentAddress(f"{port}-{secrets.token_hex(6)}", root), held


def address_in(variables: Mapping[str, str], kind: Kind | None = None) -> AgentAddress | None:
    """The address that variables lead to, of one kind or the first; ``None`` where they lead to no agent of ours."""
    for variable in _LEADING.values() if kind is None else (_LEADING[kind],):
        root, name = os.path.split(os.path.dirname(variables.get(variable, "")))
        prefix, _, broker = name.partition("-")
        if prefix != _FOLDER or not _ID.fullmatch(broker):
            continue
        address = AgentAddress(broker, root)
        if variable != TOKEN_VARIABLE or variables.get(URI_VARIABLE, "").endswith(f":{address.port}{address.path}"):
            return address
    return None
