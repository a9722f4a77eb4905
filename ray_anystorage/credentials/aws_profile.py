"""Reading the AWS profile that the SDKs would use, from the files that they would read."""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ray_anystorage.credentials.redact import Secrets

Settings = dict[str, str]
ProfileKind = Literal[
    "keys", "web-identity role", "chained role", "role with MFA", "SSO login", "credential_process", "nothing"
]

_FILES = (("AWS_CONFIG_FILE", "config"), ("AWS_SHARED_CREDENTIALS_FILE", "credentials"))
_KEYS = {
    "aws_access_key_id": "AWS_ACCESS_KEY_ID",
    "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "aws_session_token": "AWS_SESSION_TOKEN",
}


@dataclass(frozen=True, slots=True)
class Profile:
    """One profile, with its secret values where only :meth:`Secrets.reveal` shows them.

    Attributes
    ----------
    name, named_by
        The profile, and the variables that say so; none for the implicit ``default``.
    files
        Variable and absolute path of each file that was read.
    kind
        What the profile holds.
    keys
        Static keys under their environment names; empty unless ``kind`` is ``"keys"``.
    region
        The profile's region.
    problem
        Why it cannot be used, with what to do; empty when it can.
    """

    name: str
    named_by: tuple[str, ...]
    files: tuple[tuple[str, str], ...]
    kind: ProfileKind = "nothing"
    keys: Secrets = field(default_factory=Secrets, compare=False)
    region: str | None = None
    problem: str = ""

    @property
    def description(self) -> str:
        """One phrase without secrets: ``profile 'team' (keys) in /home/me/.aws/credentials``."""
        where = " and ".join(path for _, path in self.files) or "no file"
        return f"profile {self.name!r} ({self.kind}) in {where}"


def absolute_path(path: str, environ: Mapping[str, str]) -> str:
    """The path as another process with another home and working directory must be told it."""
    if path == "~" or path.startswith("~/"):
        path = environ.get("HOME", "~") + path[1:]
    return os.path.abspath(path)


def file_problem(said_by: str, path: str) -> str:
    """Why a file that a variable names cannot be read; empty when it can."""
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        return f"{said_by} names {path}, which cannot be read on this node: {error.strerror}"
    return ""


def read_profile(environ: Mapping[str, str]) -> Profile | None:
    """Read the profile that the SDKs would take; ``None`` when nothing names one and there is no ``default``."""
    # botocore asks AWS_DEFAULT_PROFILE first; pyarrow reads AWS_PROFILE alone, so both travel where the first is set.
    named_by = tuple(variable for variable in ("AWS_DEFAULT_PROFILE", "AWS_PROFILE") if environ.get(variable))
    name = environ[named_by[0]] if named_by else "default"
    sections: dict[str, Settings] = {}
    files: list[tuple[str, str]] = []
    for variable, default in _FILES:
        path = _path(environ, variable, default)
        if path is None or not (environ.get(variable) or os.path.isfile(path)):
            continue
        said_by = variable if environ.get(variable) else "the default place"
        problem = file_problem(said_by, path) or _merge_file(path, variable, sections)
        if problem:
            return Profile(name, named_by, tuple(files), problem=problem)
        files.append((variable, path))
    expected = bool(named_by) or bool(environ.get("AWS_SHARED_CREDENTIALS_FILE"))
    profile = _describe(name, named_by, tuple(files), sections, environ)
    return profile if expected or profile.kind != "nothing" else None


def _path(environ: Mapping[str, str], variable: str, default: str) -> str | None:
    if environ.get(variable):
        return absolute_path(environ[variable], environ)
    return os.path.join(environ["HOME"], ".aws", default) if environ.get("HOME") else None


def _merge_file(path: str, variable: str, sections: dict[str, Settings]) -> str:
    parser = configparser.RawConfigParser(default_section="")
    try:
        with open(path, encoding="utf-8") as file:
            parser.read_file(file)
    except (configparser.Error, UnicodeDecodeError):  # their messages quote lines of the file, which may be secret
        return f"{path} is not a valid AWS {'config' if variable == 'AWS_CONFIG_FILE' else 'credentials'} file"
    for section in parser.sections():
        name = section
        if variable == "AWS_CONFIG_FILE":
            words = section.split(maxsplit=1)
            if len(words) == 2 and words[0] == "profile":
                name = words[1].strip("\"' ")
            elif section != "default":
                continue
        sections.setdefault(name, {}).update(parser.items(section))
    return ""


def _describe(
    name: str,
    named_by: tuple[str, ...],
    files: tuple[tuple[str, str], ...],
    sections: Mapping[str, Settings],
    environ: Mapping[str, str],
) -> Profile:
    settings = {key: value for key, value in sections.get(name, {}).items() if value}
    kind = _kind(settings)
    if kind == "chained role" and _asks_for_code(name, sections):
        kind = "role with MFA"
    keys = {variable: settings[key] for key, variable in _KEYS.items() if key in settings} if kind == "keys" else {}
    where = " and ".join(path for _, path in files) or "any file (there is none)"
    if name not in sections:
        known = f"; profiles there: {', '.join(sorted(sections))}" if sections else ""
        said_by = f"{named_by[0]} names" if named_by else "there is no AWS_PROFILE, which leaves"
        problem = f"{said_by} profile {name!r}, which is not in {where}{known}"
    else:
        problem = _problem(name, kind, settings, where, environ)
    return Profile(name, named_by, files, kind, Secrets(keys), settings.get("region"), problem)


def _kind(settings: Settings) -> ProfileKind:
    if "role_arn" in settings:  # it wins over keys in the same profile, as in botocore
        return "web-identity role" if "web_identity_token_file" in settings else "chained role"
    if "sso_session" in settings or "sso_start_url" in settings:
        return "SSO login"
    if "aws_access_key_id" in settings or "aws_secret_access_key" in settings:
        return "keys"
    return "credential_process" if "credential_process" in settings else "nothing"


def _asks_for_code(name: str, sections: Mapping[str, Settings], seen: tuple[str, ...] = ()) -> bool:
    """Whether botocore would ask at the terminal, for a role of the profile or of one that it takes its keys from."""
    settings = sections.get(name, {})
    holds_keys = bool(seen) and "aws_access_key_id" in settings  # of a source profile botocore takes these first
    if name in seen or holds_keys or "role_arn" not in settings:
        return False
    return "mfa_serial" in settings or _asks_for_code(settings.get("source_profile", ""), sections, (*seen, name))


def _problem(name: str, kind: ProfileKind, settings: Settings, where: str, environ: Mapping[str, str]) -> str:
    if kind == "nothing":
        return f"profile {name!r} in {where} holds no credentials"
    if kind == "keys":
        missing = [key for key in ("aws_access_key_id", "aws_secret_access_key") if key not in settings]
        return f"profile {name!r} in {where} lacks {missing[0]}" if missing else ""
    if kind == "web-identity role":
        path = absolute_path(settings["web_identity_token_file"], environ)
        return file_problem(f"web_identity_token_file of profile {name!r}", path)
    if kind == "role with MFA":
        return (
            f"profile {name!r} in {where} wants a code from an MFA device (mfa_serial), for which no process of a run "
            "can ask; name a profile that holds a 'credential_process', or the keys of a session (aws sts "
            "get-session-token)"
        )
    if kind == "chained role":
        return (
            f"profile {name!r} in {where} takes its role through source_profile or credential_source, which pyarrow, "
            "the client of Ray's run state, does not follow; name another profile that holds 'credential_process = "
            f"aws configure export-credentials --profile {name} --format process'"
        )
    return ""
