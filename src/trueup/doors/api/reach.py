"""What of the shared things a caller reaches who is limited to some deployments.

A contract belongs to every deployment whose versions keep it. To read it, one of these is enough. Outcomes
and new versions of it change what all of them say, so to write, all of them are needed.
"""

from __future__ import annotations

from contextlib import suppress

from trueup.bootstrap import Services
from trueup.domain.contract import Contract
from trueup.domain.deployment import Deployment
from trueup.doors.auth import Caller, Permission
from trueup.errors import Forbidden, NotFound, no_contract


def readable(services: Services, caller: Caller) -> list[Deployment]:
    """The newest revision of every deployment that the caller may read."""
    return [d for d in services.registry.deployments() if caller.may(Permission.READ, d.name)]


def reads_contract(services: Services, name: str, caller: Caller) -> bool:
    """Whether the caller may read the contract of that name."""
    if caller.reach(Permission.READ) is None:
        return True
    return any(name in _contracts(d) for d in readable(services, caller))


def check_outcomes(services: Services, contract: str, caller: Caller) -> None:
    """Raises NotFound or Forbidden where other deployments than the caller's keep the contract of that name."""
    if caller.reach(Permission.RECORD_OUTCOMES) is None:
        return
    users = [d.name for d in services.registry.deployments() if contract in _contracts(d)]
    allowed = [caller.may(Permission.RECORD_OUTCOMES, user) for user in users]
    if not any(allowed):
        raise no_contract()
    if not all(allowed):
        raise _kept_by_others("outcomes")


def check_brought(services: Services, contract: Contract, caller: Caller) -> None:
    """Raises Forbidden where deploying would add a version to a contract that others keep, or have kept."""
    if caller.reach(Permission.DEPLOY) is None:
        return
    try:
        services.registry.contract(contract.name)
    except NotFound:
        return  # nobody's yet
    with suppress(NotFound):
        if services.registry.contract(contract.name, contract.version).digest == contract.digest:
            return  # adds nothing
    users = [d.name for d in services.registry.deployments() if contract.name in _contracts(d)]
    if not (users and all(caller.may(Permission.DEPLOY, user) for user in users)):
        raise _kept_by_others("a new version")


def _kept_by_others(what: str) -> Forbidden:
    return Forbidden(
        f"other deployments keep this contract, and {what} would change what they say",
        next_step="use a key that covers all of them, or a contract of another name",
    )


def _contracts(deployment: Deployment) -> set[str]:
    """Names of the contracts that its versions keep."""
    versions = (deployment.champion, *deployment.challengers, *deployment.shadows)
    return {version.contract.name for version in versions}
