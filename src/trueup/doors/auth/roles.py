"""What may be done, and by whom: permissions, roles, and a caller with a role for all deployments or for named ones."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from trueup.errors import Forbidden


class ApiRole(StrEnum):
    """What a caller is for; each role may all that the one before it may."""

    READER = "reader"
    SCORER = "scorer"
    OPERATOR = "operator"
    ADMIN = "admin"


class Permission(StrEnum):
    """One thing that can be allowed."""

    READ = "read"
    SCORE = "score"
    RECORD_OUTCOMES = "record outcomes"
    DEPLOY = "deploy"
    HANDLE_ALERTS = "handle alerts"
    MANAGE_KEYS = "manage keys"


PERMISSIONS: dict[ApiRole, frozenset[Permission]] = {
    ApiRole.READER: frozenset({Permission.READ}),
    ApiRole.SCORER: frozenset({Permission.READ, Permission.SCORE}),
    ApiRole.OPERATOR: frozenset(Permission) - {Permission.MANAGE_KEYS},
    ApiRole.ADMIN: frozenset(Permission),
}


@dataclass(frozen=True, slots=True)
class Grant:
    """A role, for all deployments (``deployments`` None) or for the named ones."""

    role: ApiRole
    deployments: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever is calling. ``actor`` is the audit's name for them: ``key:<id>`` or ``oidc:<subject>``.

    With several grants each stands for itself: a reader of everything may be the operator of one deployment.
    """

    actor: str
    grants: tuple[Grant, ...]

    def may(self, permission: Permission, deployment: str | None = None) -> bool:
        """Whether it is allowed, for ``deployment`` or, None, for at least one."""
        for grant in self.grants:
            if permission in PERMISSIONS[grant.role]:
                names = grant.deployments
                if names is None or deployment is None or deployment in names:
                    return True
        return False

    def require(self, permission: Permission, deployment: str | None = None) -> None:
        """Raises Forbidden where it is not allowed.

        A name outside of the caller's deployments is forbidden whether it exists or not, and nothing is looked
        up before: so the answer says nothing about what there is.
        """
        if self.may(permission, deployment):
            return
        if self.may(permission):
            raise Forbidden(
                f"the caller may {permission}, but not for a deployment of this name",
                next_step="use a key or token that covers this deployment",
            )
        enough = next(role for role in ApiRole if permission in PERMISSIONS[role])
        held = ", ".join(sorted({f"role {grant.role}" for grant in self.grants})) or "no role"
        raise Forbidden(f"a caller of {held} may not {permission}", next_step=f"use a key of role {enough} or higher")

    def reach(self, permission: Permission) -> frozenset[str] | None:
        """Names of the deployments for which it is allowed; None for all."""
        found: set[str] = set()
        for grant in self.grants:
            if permission in PERMISSIONS[grant.role]:
                if grant.deployments is None:
                    return None
                found |= grant.deployments
        return frozenset(found)
