"""Choosing the credentials of a run: which source, in which mode, and what of it travels to the workers.

What the clients do with the variables of a :class:`Grant` (tried with botocore 1.43, s3fs 2026.9, pyarrow 26 and
obstore 0.12; the endpoint also with s3fs 2024.2, botocore 1.34, pyarrow 17 and obstore 0.6):

- *Endpoint.* All four read ``AWS_ENDPOINT_URL_S3``, except obstore before it knew that name, which reads
  ``AWS_ENDPOINT``, a name that no AWS SDK knows (0.6 lets a worker's own ``AWS_ENDPOINT_URL`` win over it).
  ``AWS_ENDPOINT_URL`` is left alone: it would send the run's calls of every other AWS service, the token service
  included, to the store. pyarrow reads the endpoint in ``FileSystem.from_uri`` only;
  ``S3FileSystem(...)`` needs ``endpoint_override``. obstore refuses an ``http://`` endpoint without ``AWS_ALLOW_HTTP``.
- *Region.* botocore and s3fs read ``AWS_DEFAULT_REGION`` alone, pyarrow and obstore either name.
- *Profiles.* obstore reads neither profiles nor AWS files, and without keys it would ask the metadata service. In mode
  ``reference`` the transfer layer must hand it a ``credential_provider`` that asks botocore
  (``botocore.session.Session().get_credentials()``) and returns key, secret, token and expiry.
- *Precedence.* Keys in the environment win over ``AWS_PROFILE`` in all of them, so ``env`` needs no more. (botocore
  still raises ``ProfileNotFound`` when the worker's own ``AWS_PROFILE`` names no profile; an empty value does not
  help.) The other way round nothing in ``runtime_env`` can unset keys that a worker has already: they win over a
  reference.
- *GCS.* google-auth, pyarrow and obstore read a service-account file by ``GOOGLE_APPLICATION_CREDENTIALS`` (tried).
  gcsfs did not answer within 25 s against a stand-in store, so nothing is proven for it. Not tried:
  obstore with types beyond ``service_account`` and ``authorized_user``, which it is not known to read.
- *Azure.* obstore asks a ``credential_provider`` before it looks at any key, SAS or ``AZURE_CREDENTIAL_TYPE`` of its
  environment (tried). No SDK reads a SAS or an account key from a file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, NoReturn

from ray_anystorage.credentials.azure import azure_variables
from ray_anystorage.credentials.brokered import brokered, brokered_callable
from ray_anystorage.credentials.grant import Credentials, Grant, Mode
from ray_anystorage.credentials.reasons import problems, why_not_better
from ray_anystorage.credentials.redact import MASK, Secrets, shown
from ray_anystorage.credentials.sources import DMI_ROOT, Source, find_sources, looked_for, own_endpoint, usable
from ray_anystorage.environment import BucketAddress
from ray_anystorage.errors import (
    ConfigClashError,
    CredentialsError,
    CredentialsNotFoundError,
    RequestError,
    UnsupportedStoreError,
)

MODES = ("auto", "ambient", "reference", "broker", "env")
_SCHEMES = ("s3", "gs", "abfss")
_EXPOSED = "Ray writes the values in plain text to its runtime-env log and returns them in its state records"
_SET = {
    "s3": "set AWS_PROFILE",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS",
    "abfss": "set AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_ACCOUNT_KEY",
}
_NOTHING_TO_NAME = 'say credentials="broker", which serves secrets: of Azure\'s there is nothing that could be named'
_SET_SECRETS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS",
    "abfss": "set AZURE_STORAGE_SAS_TOKEN, AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_CONNECTION_STRING",
}
# Ray expands these in the values of env_vars (ray/_private/utils.py, update_envs), which would alter the value.
_EXPANDED_BY_RAY = re.compile(r"\$(\w|\{)")


def choose(mode: Credentials, address: BucketAddress, environ: Mapping[str, str], *, dmi_root: str = DMI_ROOT) -> Grant:
    """Choose credentials for a bucket.

    Parameters
    ----------
    mode
        ``auto`` takes the safest that works: an identity of the nodes, else a reference, else a broker; never ``env``.
        ``ambient`` is believed without a sign of it on this node. The others insist on a source that can be carried
        so. A callable is asked by a broker.
    address
        The bucket.
    environ
        The variables of the node that decides.
    dmi_root
        Where the kernel shows the machine's maker.

    Raises
    ------
    RequestError
        The mode or the bucket's scheme is unknown.
    CredentialsNotFoundError
        There is no source.
    CredentialsError
        A source that is named cannot be used, or the mode cannot carry what there is.
    """
    _refuse_unknown(mode, address)
    if not isinstance(mode, str):
        source = brokered_callable(address, mode)
        return _grant("broker", source, address, f"{source.description}: it was given as credentials")
    sources = find_sources(address, environ, dmi_root=dmi_root)
    choosers: Mapping[str, Callable[..., Grant]] = {
        "auto": _auto,
        "ambient": _ambient,
        "reference": _reference,
        "broker": _broker,
        "env": _env,
    }
    return choosers[mode](address, sources, looked_for(address, environ))


def choose_here(address: BucketAddress, environ: Mapping[str, str], *, dmi_root: str = DMI_ROOT) -> Grant:
    """As ``auto``, for this process alone: nothing travels, so secrets serve as they are. Raises the same errors."""
    sources = find_sources(address, environ, dmi_root=dmi_root)
    better = any(source.usable for source in sources if source.mode != "env")
    static = next(usable(sources, "env"), None)
    return choose("env" if static and not better else "auto", address, environ, dmi_root=dmi_root)


def merge_runtime_env(
    runtime_env: Mapping[str, Any] | None, env_vars: Mapping[str, str], secret_names: Collection[str] = ()
) -> dict[str, Any]:
    """The user's ``runtime_env`` with more ``env_vars``; neither argument is changed.

    Raises
    ------
    ConfigClashError
        Both set the same variable to different values. Values of ``secret_names`` are masked in the message.
    """
    merged = dict(runtime_env or {})
    theirs: dict[str, str] = dict(merged.get("env_vars") or {})
    for name, value in env_vars.items():
        if theirs.get(name, value) != value:
            shown = (MASK, MASK) if name in secret_names else (repr(theirs[name]), repr(value))
            raise ConfigClashError(
                f"runtime_env says {name}={shown[0]}, the plan says {name}={shown[1]}: leave it out of "
                "runtime_env['env_vars'], or give the plan the same value"
            )
    if theirs or env_vars:
        merged["env_vars"] = {**theirs, **env_vars}
    return merged


def check_mode(mode: Credentials, *, said_by: str = "credentials") -> None:
    """Refuse what is not a mode.

    Raises
    ------
    RequestError
        Naming the value, where it is a text, and the modes.
    """
    if not callable(mode) and mode not in MODES:
        expected = f"one of {', '.join(map(repr, MODES))}, or a callable that returns credentials"
        raise RequestError(f"{said_by}={shown(mode)} is not a mode: expected {expected}")


def _refuse_unknown(mode: Credentials, address: BucketAddress) -> None:
    check_mode(mode)
    if address.scheme not in _SCHEMES:
        raise UnsupportedStoreError(
            f"{address.uri}: runs in {address.scheme}:// storage are not supported in this version\n  what to do: use "
            "an s3://, gs:// or abfss:// folder, or a mount with tier=…"
        )


# --- one function per mode ------------------------------------------------------------------------


def _auto(address: BucketAddress, sources: tuple[Source, ...], looked: str) -> Grant:
    for mode in ("ambient", "reference"):
        for source in usable(sources, mode):
            return _grant(mode, source, address, f"{source.description}: {why_not_better(source, sources)}")
    served = brokered(address, sources)
    if served is None:
        _nothing("auto", address, sources, looked)
    return _grant("broker", served, address, f"{served.description}: {why_not_better(served, sources)}")


def _ambient(address: BucketAddress, sources: tuple[Source, ...], looked: str) -> Grant:
    found = next(usable(sources, "ambient"), None)
    if found is not None:
        return _grant("ambient", found, address, f'{found.description}: credentials="ambient" was asked for')
    believed = Source("instance", "ambient", "the nodes' own identity, as asked for")
    sign = f"no sign of it on this node{problems(sources, 'ambient')}"
    return _grant("ambient", believed, address, f'credentials="ambient" was asked for; {sign}')


def _reference(address: BucketAddress, sources: tuple[Source, ...], looked: str) -> Grant:
    source = next(usable(sources, "reference"), None)
    if source is None:
        _nothing("reference", address, sources, looked)
    return _grant("reference", source, address, f'{source.description}: credentials="reference" was asked for')


def _broker(address: BucketAddress, sources: tuple[Source, ...], looked: str) -> Grant:
    known = next((source for source in usable(sources, "ambient") if source.references), None)
    if known is not None:
        reason = f'{known.description}: credentials="broker" was asked for, and one serves this process already'
        return _grant("ambient", known, address, reason)
    source = brokered(address, sources)
    if source is None:
        _nothing("broker", address, sources, looked)
    return _grant("broker", source, address, f'{source.description}: credentials="broker" was asked for')


def _env(address: BucketAddress, sources: tuple[Source, ...], looked: str) -> Grant:
    if address.scheme == "gs":
        raise CredentialsError(
            'credentials="env" cannot carry credentials for gs://…: the Google SDKs, gcsfs and pyarrow take a key file '
            'by its path, never its content from a variable\n  what to do: use credentials="reference", with '
            'GOOGLE_APPLICATION_CREDENTIALS naming a file that is on every node, or "ambient"'
        )
    candidates = sorted((source for source in sources if source.secrets.names), key=lambda source: source.mode != "env")
    source = next((source for source in candidates if source.usable), None)
    if source is None:
        _nothing("env", address, sources, looked)
    better = next((other for other in sources if other.usable and other.mode != "env"), None)
    safer = f'; credentials="auto" would have taken {better.description}' if better else ""
    return _grant("env", source, address, f'{source.description}: credentials="env" was asked for; {_EXPOSED}{safer}')


# --- grants ---------------------------------------------------------------------------------------


def _grant(mode: Mode, source: Source, address: BucketAddress, reason: str) -> Grant:
    references = dict(source.references) if mode != "env" else {}
    secrets = source.secrets.reveal() if mode == "env" else {}
    for name, value in {**references, **secrets}.items():
        if _EXPANDED_BY_RAY.search(value):
            raise CredentialsError(
                f"{name} holds a '$' before a letter, digit or brace, which Ray would expand on the workers, so that "
                "they would get another value\n  what to do: use a path or a key without it, or a profile file on each "
                "node"
            )
    region = address.region or (source.region if mode != "ambient" else None)
    harmless = {**_address_variables(address, region, secrets), **references}
    if mode != "ambient" and address.scheme == "s3":
        harmless["AWS_EC2_METADATA_DISABLED"] = "true"  # no SDK may stall on, or fall back to, the machine's identity
    return Grant(mode, source.description, reason, tuple(sorted(harmless.items())), Secrets(secrets))


def _address_variables(address: BucketAddress, region: str | None, secret_names: Collection[str]) -> dict[str, str]:
    endpoint, ca_file = address.endpoint, address.options.ca_file
    if address.scheme == "abfss":
        return azure_variables(address, secret_names)
    if address.scheme == "gs":
        names = ("STORAGE_EMULATOR_HOST", "CLOUD_STORAGE_EMULATOR_ENDPOINT", "GOOGLE_BASE_URL")
        return dict.fromkeys(names, endpoint) if endpoint else {}
    variables = dict.fromkeys(("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"), endpoint) if endpoint else {}
    if endpoint and endpoint.lower().startswith("http://"):
        variables["AWS_ALLOW_HTTP"] = "true"
    if ca_file:
        variables["AWS_CA_BUNDLE"] = ca_file
    if region is None and not own_endpoint(address):
        region = "us-east-1"  # what every SDK signs with when nothing is said; said, none asks the metadata service
    return variables | (dict.fromkeys(("AWS_REGION", "AWS_DEFAULT_REGION"), region) if region else {})


# --- reasons and errors ---------------------------------------------------------------------------


def _nothing(mode: str, address: BucketAddress, sources: tuple[Source, ...], looked: str) -> NoReturn:
    """Raise for a mode that has no usable source: the named one that is broken, else that there is none."""
    broken = [source for source in sources if source.problem and source.mode != "ambient"]
    if mode != "env":
        broken = [source for source in broken if mode == "auto" or source.mode == mode]
    if broken:
        raise CredentialsError(
            f"the credentials for {address.uri} cannot be used: {broken[0].problem}{problems(tuple(broken[1:]))}\n"
            '  what to do: correct it on this node and on every other, or say credentials="ambient" if the nodes have '
            "an identity of their own"
        )
    found = "; ".join(source.description for source in sources if source.usable)
    remedy = _SET[address.scheme] if mode == "reference" else _SET_SECRETS[address.scheme]
    if (mode, address.scheme) == ("reference", "abfss"):
        remedy = _NOTHING_TO_NAME
    raise CredentialsNotFoundError(
        f'credentials="{mode}": no source for {address.uri} was found'
        f"{f', only {found}' if found else ''}{problems(sources)}\n  looked for: {looked}\n"
        f'  what to do: {remedy}, or say credentials="ambient" if the nodes have an identity of their own'
    )
