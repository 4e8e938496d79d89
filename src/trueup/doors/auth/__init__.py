"""Who is calling, and what they may do. Every door asks here."""

from trueup.doors.auth.authenticator import Authenticator
from trueup.doors.auth.gate import Gate, open_gate
from trueup.doors.auth.keys import ApiKey, ApiKeys
from trueup.doors.auth.memory import MemoryApiKeys
from trueup.doors.auth.postgres import PostgresApiKeys, open_keys
from trueup.doors.auth.roles import PERMISSIONS, ApiRole, Caller, Grant, Permission

__all__ = [
    "PERMISSIONS",
    "ApiKey",
    "ApiKeys",
    "ApiRole",
    "Authenticator",
    "Caller",
    "Gate",
    "Grant",
    "MemoryApiKeys",
    "Permission",
    "PostgresApiKeys",
    "open_gate",
    "open_keys",
]
