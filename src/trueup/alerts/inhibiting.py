"""Which alerts others make superfluous, as in Alertmanager."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from trueup.alerts.matching import all_match
from trueup.domain.alert import Inhibition, Labels


def is_inhibited(labels: Labels, inhibitions: Sequence[Inhibition], firing: Iterable[Labels]) -> bool:
    """Whether an alert of ``firing`` inhibits this one.

    One that matches both sides of an inhibition is not inhibited by others that do: so none inhibits itself.
    """
    sources = list(firing)
    return any(all_match(i.target, labels) and _has_source(labels, i, sources) for i in inhibitions)


def _has_source(labels: Labels, inhibition: Inhibition, firing: Sequence[Labels]) -> bool:
    is_both = all_match(inhibition.source, labels)
    return any(
        all_match(inhibition.source, source)
        and all(labels.get(name, "") == source.get(name, "") for name in inhibition.equal)
        and not (is_both and all_match(inhibition.target, source))
        for source in firing
    )
