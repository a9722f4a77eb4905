"""Session tokens of the S3 test server: its configuration for issuing them, and a way to set when one expires."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

ROLE = "arn:aws:iam::role/Trainer"
MIN_LIFETIME = 900  # seconds; STS issues nothing shorter, which is why tests sign their own expiry


def configuration(signing_key: bytes) -> dict[str, Any]:
    """SeaweedFS's ``iam.config``: one role that every key may assume and that may do everything."""
    name = ROLE.rpartition("/")[2]
    trust = {"Effect": "Allow", "Principal": "*", "Action": ["sts:AssumeRole"]}
    rights = {"Effect": "Allow", "Action": ["s3:*"], "Resource": ["*"]}
    return {
        "sts": {
            "tokenDuration": "1h",
            "maxSessionLength": "12h",
            "issuer": "seaweedfs-sts",
            "signingKey": base64.b64encode(signing_key).decode(),
        },
        "providers": [],
        "policy": {"defaultEffect": "Deny", "storeType": "memory"},
        "policies": [{"name": "All", "document": {"Version": "2012-10-17", "Statement": [rights]}}],
        "roles": [
            {
                "roleName": name,
                "roleArn": ROLE,
                "description": "may do everything",
                "trustPolicy": {"Version": "2012-10-17", "Statement": [trust]},
                "attachedPolicies": ["All"],
            }
        ],
    }


def with_expiry(token: str, signing_key: bytes, expires_at: float) -> str:
    """The same session (a JWT, RFC 7519, HS256) with another expiry, in seconds since the epoch."""
    header, payload, _ = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    claims["exp"] = int(expires_at)
    body = f"{header}.{_encode(json.dumps(claims).encode())}"
    return f"{body}.{_encode(hmac.new(signing_key, body.encode(), hashlib.sha256).digest())}"


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
