"""What changed between two contracts, and for whom it breaks."""

from __future__ import annotations

from dataclasses import replace

from trueup.domain.contract import Contract, ContractChange, Field, FieldRole, FieldType, Label


def compare(old: Contract, new: Contract) -> tuple[ContractChange, ...]:
    """Every difference from ``old`` to ``new``. Breaking means: a caller, a reader of the typed
    view or the model that was right before may be wrong after."""
    changes = [*_fields(old, new), *_order(old, new)]
    for name in ("output", "decision", "expected_cost", "event_time"):
        if getattr(old, name) != getattr(new, name):
            decides = name in ("decision", "expected_cost")
            reason = "answers mean something else" if decides else "stored rows and callers rely on it"
            changes.append(ContractChange(name, not decides, reason))
    return (*changes, *_labels(old, new))


def _labels(old: Contract, new: Contract) -> list[ContractChange]:
    """A label that comes in addition breaks nobody; another primary one changes what every figure is about."""
    if old.label is None or new.label is None or old.label.name != new.label.name:
        return [] if old.label == new.label else [ContractChange("label", True, "stored rows and callers rely on it")]
    before, after = ({label.name: label for label in contract.labels} for contract in (old, new))
    changes = []
    for name in dict.fromkeys((*before, *after)):
        where = "label" if name == old.label.name else f"labels.{name}"
        if name not in after:
            changes.append(ContractChange(where, True, "the label is gone: its outcomes are refused"))
        elif name not in before:
            changes.append(ContractChange(where, False, "new: its outcomes may come"))
        elif _documented(before[name]) != _documented(after[name]):
            changes.append(ContractChange(where, True, "stored rows and callers rely on it"))
    return changes


def _documented(label: Label) -> Label:
    return replace(label, description="")


def _fields(old: Contract, new: Contract) -> list[ContractChange]:
    changes = []
    for f in old.fields:
        now = new.by_name.get(f.name)
        if now is None:
            changes.append(
                ContractChange(f"fields.{f.name}", True, "the field is gone: callers that send it are refused")
            )
        else:
            changes += _field(f, now)
    for f in new.fields:
        if f.name not in old.by_name:
            needed = not f.nullable or f.role is not FieldRole.CONTEXT
            why = "callers do not send it yet" if not f.nullable else "the model or the business key changes with it"
            changes.append(ContractChange(f"fields.{f.name}", needed, why if needed else "new and optional"))
    return changes


def _field(old: Field, new: Field) -> list[ContractChange]:
    where = f"fields.{old.name}"
    changes = []
    if (old.type, old.precision, old.scale) != (new.type, new.precision, new.scale):
        wider = (
            old.type is new.type is FieldType.DECIMAL
            and old.scale == new.scale
            and (old.precision or 0) <= (new.precision or 0)
        )
        changes.append(ContractChange(f"{where}.type", not wider, "the type is another"))
    if old.role is not new.role:
        changes.append(ContractChange(f"{where}.role", True, "the field serves something else"))
    if old.nullable != new.nullable:
        changes.append(ContractChange(f"{where}.nullable", old.nullable, "nulls are treated differently"))
    changes += _range(old, new, where)
    gone = set(old.categories) - set(new.categories)
    if old.categories_open and not new.categories_open:
        changes.append(ContractChange(f"{where}.categories", True, "the categories were open and are closed"))
    elif gone and not new.categories_open:
        changes.append(ContractChange(f"{where}.categories", True, "some categories are no longer allowed"))
    elif old.categories != new.categories or old.categories_open != new.categories_open:
        # A category reaches the model as its place in the list.
        breaking = old.categories != new.categories[: len(old.categories)] and new.role is FieldRole.FEATURE
        changes.append(ContractChange(f"{where}.categories", breaking, "the list of categories is another"))
    for flag in ("allow_nan", "allow_infinity"):
        if getattr(old, flag) != getattr(new, flag):
            changes.append(
                ContractChange(f"{where}.{flag}", getattr(old, flag), "special numbers are treated differently")
            )
    return changes


def _range(old: Field, new: Field, where: str) -> list[ContractChange]:
    changes = []
    for end, narrower in (("minimum", _raised), ("maximum", _lowered)):
        before, after = getattr(old, end), getattr(new, end)
        if before != after:
            changes.append(ContractChange(f"{where}.{end}", narrower(before, after), "the range is another"))
    return changes


def _raised(before: float | str | None, after: float | str | None) -> bool:
    return after is not None and (before is None or float(after) > float(before))


def _lowered(before: float | str | None, after: float | str | None) -> bool:
    return after is not None and (before is None or float(after) < float(before))


def _order(old: Contract, new: Contract) -> list[ContractChange]:
    kept_old = [f.name for f in old.features if f.name in new.by_name]
    kept_new = [f.name for f in new.features if f.name in old.by_name]
    if set(kept_old) == set(kept_new) and kept_old != kept_new:
        return [ContractChange("fields", True, "the model takes its features in another order")]
    return []
