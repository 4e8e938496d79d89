"""`trueup alert rules|test|explain|backtest|run`: what is done with rules."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trueup.doors.cli.errors import FAILURE
from trueup.doors.cli.output import JsonOption, print_json, print_table, say

if TYPE_CHECKING:
    from trueup.alerts.engine import AlertEngine
    from trueup.bootstrap import Services

_FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S"]
RuleArgument = Annotated[str, typer.Argument(metavar="RULE", help="The rule's file name without `.sql`.")]
ParameterOption = Annotated[
    list[str] | None, typer.Option("--param", metavar="NAME=VALUE", help="Another value of a parameter; repeatable.")
]


def register(app: typer.Typer) -> None:
    """Adds the commands to `trueup alert`."""
    app.command("rules", epilog="Example:  trueup alert rules --json")(rules)
    app.command("test", epilog="Example:  trueup alert test rejections_up")(check_fixture)
    app.command("explain", epilog="Example:  trueup alert explain rejections_up --param share=0.1")(explain)
    app.command(
        "backtest", epilog="Example:  trueup alert backtest rejections_up --from 2026-11-01 --to 2026-11-30 --every 1h"
    )(backtest)
    app.command("run", epilog="Examples:  trueup alert run;  trueup alert run rejections_up --at 2026-11-20T09:00:00")(
        run
    )


def rules(as_json: JsonOption = False) -> None:
    """List rules: those whose files there are, and how each was the last time it was evaluated."""
    with _services() as services:
        found = services.queries.rows("SELECT * FROM alert_rules ORDER BY rule")
        folders = _engine(services).folders.read()
    known = {row["rule"]: row for row in found}
    rows: list[dict[str, Any]] = []
    for name, file in folders.readable.items():
        rule, row = file.rule, known.get(name, {})
        said = {"alertname": rule.name, "severity": str(rule.severity), "owner": rule.owner, "schedule": rule.schedule}
        rows.append({"rule": name, **said, **_condition(row, "not evaluated yet")})
    for name, error in folders.broken.items():
        rows.append(
            {"rule": name, **_condition(known.get(name, {}), ""), "state": "quarantined", "reason": error.message}
        )
    there = {row["rule"] for row in rows}
    rows += [{**row, "front": None} for name, row in known.items() if name not in there]
    if as_json:
        print_json(rows)
    else:
        columns = ("rule", "alertname", "severity", "owner", "schedule", "state", "evaluated_due", "reason")
        print_table(sorted(rows, key=lambda row: str(row["rule"])), columns=columns)


def check_fixture(rule: RuleArgument, as_json: JsonOption = False) -> None:
    """Run the rule's fixture, `RULE.test.yaml` beside it. Exits with 1 where something is not as expected."""
    from trueup.alerts.fixtures import read_fixture, run_story

    with _services() as services:
        engine = _engine(services)
        file, path = engine.folders.rule(rule), engine.folders.path(rule)
        settings = services.settings.alerts
        done = [
            run_story(
                story,
                file,
                lambda at, given: file.file.bind(given, now=at),
                lambda text, bound: services.queries.rows(text, bound, timeout_s=settings.statement_timeout_s),
                engine.bounds,
                settings.backtest_evaluations,
            )
            for story in read_fixture(path.with_suffix(".test.yaml"))
        ]
    failed = [one for one in done if one.faults]
    if as_json:
        print_json([{"name": one.name, "passed": not one.faults, "faults": one.faults} for one in done])
    else:
        for one in done:
            say(f"{'FAILED' if one.faults else 'passed'}  {one.name}")
            for fault in one.faults:
                say(f"        {fault}")
        say(f"{len(done) - len(failed)} of {len(done)} passed")
    if failed:
        raise typer.Exit(FAILURE)


def explain(rule: RuleArgument, param: ParameterOption = None, as_json: JsonOption = False) -> None:
    """Show what the rule reads, with which parameters, whom it tells, and how the database would run it."""
    from trueup.bootstrap import utc_now

    with _services() as services:
        engine = _engine(services)
        file = engine.folders.rule(rule)
        bound = engine.bound(file, utc_now(), _given(param))
        plans = {query.name: services.queries.explain(query.text, bound) for query in file.file.queries}
        receivers = list(file.rule.receivers) or services.settings.alerts.receivers
    found = {
        "rule": rule,
        "alertname": file.rule.name,
        "schedule": file.rule.schedule,
        "for": str(file.rule.timing.hold),
        "keep_firing_for": str(file.rule.timing.keep_firing),
        "receivers": receivers,
        "group_by": list(file.rule.group_by),
        "reads": sorted({name for query in file.file.queries for name in query.relations}),
        "parameters": bound,
        "plans": plans,
    }
    if as_json:
        print_json(found)
        return
    for name in ("alertname", "schedule", "for", "keep_firing_for", "receivers", "group_by", "reads"):
        value = found[name]
        typer.echo(f"{name}: {', '.join(value) or 'nobody' if isinstance(value, list) else value}")
    print_table(
        [{"parameter": name, "value": value} for name, value in bound.items()],
        columns=("parameter", "value"),
        title="parameters",
    )
    for name, plan in plans.items():
        typer.echo(f"plan of {name}: estimated cost {plan.get('Total Cost')}, rows {plan.get('Plan Rows')}")
        for line in _plan_lines(plan):
            typer.echo(line)


def backtest(
    rule: RuleArgument,
    from_: Annotated[datetime, typer.Option("--from", formats=_FORMATS, help="First moment (UTC).")],
    to: Annotated[datetime, typer.Option("--to", formats=_FORMATS, help="Last moment (UTC).")],
    every: Annotated[
        str | None, typer.Option(help="Evaluate so often (5m, 1h, 1d) instead of by its schedule.")
    ] = None,
    known_by: Annotated[
        str, typer.Option(help="`recorded`: as the ledger knew it; `observed`: for history that was replayed into it.")
    ] = "recorded",
    param: ParameterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replay the rule over the ledger's history: when would it have fired? Nothing is remembered, nobody is told."""
    from trueup.alerts.durations import parse_duration

    first, last = from_.replace(tzinfo=UTC), to.replace(tzinfo=UTC)
    if first > last:
        raise typer.BadParameter("--from is after --to")
    spaced = None if every is None else parse_duration(every, "--every")
    with _services() as services:
        found = _engine(services).backtest(rule, first, last, every=spaced, known_by=known_by, given=_given(param))
    rows = [_interval(one) for one in found.intervals]
    if as_json:
        errors = [{"at": at, "error": text} for at, text in found.errors]
        print_json({"evaluations": found.evaluations, "intervals": rows, "errors": errors})
        return
    columns = ("alertname", "labels", "pending_at", "fired_at", "ended_at", "value")
    print_table([{**row, "labels": _labelled(row["labels"])} for row in rows], columns=columns)
    fired = sum(row["fired_at"] is not None for row in rows)
    say(f"{found.evaluations} evaluations, {fired} alerts would have fired, {len(found.errors)} evaluations failed")
    if found.errors:
        say(f"the first: {found.errors[0][1]}")


def run(
    rule: Annotated[str | None, typer.Argument(metavar="[RULE]", help="One rule; all unless named.")] = None,
    at: Annotated[
        datetime | None, typer.Option(formats=_FORMATS, help="For this moment (UTC); now unless given.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate rules once, as the clock would, and tell of groups whose moment has come.

    A moment that is not newer than the last one evaluated changes nothing. Exits with 1 when a rule is broken.
    """
    from trueup.bootstrap import utc_now
    from trueup.errors import no_rule

    with _services() as services:
        engine = _engine(services)
        due = utc_now() if at is None else at.replace(tzinfo=UTC)
        there = engine.folders.read()
        names = sorted({*there.readable, *there.broken}) if rule is None else [rule]
        if rule is not None and rule not in there.readable and rule not in there.broken:
            raise no_rule()
        rows = [{"rule": name, "did": engine.evaluate(name, due)} for name in names]
        looked = engine.look(due)
        broken = services.queries.rows(
            "SELECT rule FROM alert_rules WHERE state = 'quarantined' AND rule = ANY (%(names)s)", {"names": names}
        )
    if as_json:
        print_json({"due": due, "rules": rows, "groups": looked})
    else:
        print_table(rows, columns=("rule", "did"))
        say(looked)
    if broken:
        raise typer.Exit(FAILURE)


def _condition(row: dict[str, Any], otherwise: str) -> dict[str, Any]:
    return {
        "state": row.get("state", otherwise),
        "reason": row.get("reason"),
        "evaluated_due": row.get("evaluated_due"),
    }


def _interval(one: Any) -> dict[str, Any]:
    return {
        "alertname": one.labels["alertname"],
        "labels": dict(one.labels),
        "pending_at": one.pending_at,
        "fired_at": one.fired_at,
        "ended_at": one.ended_at,
        "value": one.value,
    }


def _labelled(labels: dict[str, str]) -> str:
    return ", ".join(f"{name}={text}" for name, text in sorted(labels.items()) if name not in ("alertname", "severity"))


def _plan_lines(plan: dict[str, Any], depth: int = 0) -> list[str]:
    on = plan.get("Relation Name") or plan.get("Index Name") or plan.get("CTE Name") or plan.get("Function Name") or ""
    line = "  " * (depth + 1) + f"{plan['Node Type']} {on}".rstrip() + f"  (rows {plan.get('Plan Rows')})"
    return [line, *(deeper for part in plan.get("Plans", []) for deeper in _plan_lines(part, depth + 1))]


def _given(params: list[str] | None) -> dict[str, object]:
    found: dict[str, object] = {}
    for text in params or []:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter("--param is NAME=VALUE")
        found[name] = value
    return found


def _services() -> Services:
    from trueup.bootstrap import open_services
    from trueup.doors.cli.settings import read_settings

    return open_services(read_settings())


def _engine(services: Services) -> AlertEngine:
    from trueup.bootstrap import open_alerts

    return open_alerts(services)
