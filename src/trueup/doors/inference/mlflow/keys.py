"""The one way in which MLflow's own client can show a key: the password of HTTP Basic."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping


def password(headers: Mapping[bytes, bytes]) -> bytes:
    """The password of an Authorization header of scheme Basic, whatever its user name; else empty."""
    scheme, _, sent = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() != b"basic":
        return b""
    try:
        return base64.b64decode(sent.strip(), validate=True).partition(b":")[2]
    except binascii.Error:
        return b""
