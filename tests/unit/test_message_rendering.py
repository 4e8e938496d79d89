"""Alerts as people read them, by templates that can do nothing but read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from receiving import ALERTS
from trueup.domain.message import Message
from trueup.errors import InvalidFile
from trueup.notifying.rendering import Rendered, Rendering, lenient
from trueup.settings import Notifying


def rendered(payload: dict[str, Any] = ALERTS, **bounds: Any) -> Rendered:
    return Rendering(Notifying(**bounds)).alert(payload)


def test_the_shipped_templates_say_what_fires_since_when_and_what_to_do():
    shown = rendered()
    assert shown.subject == "[FIRING] ScoreDrift (warning): scores drift"
    assert shown.text == (
        "1 firing, 1 resolved.\n"
        "\n"
        "Runbook: https://runbooks.example/drift\n"
        "\n"
        "* FIRING deployment=fails\n"
        "  value: 0.31\n"
        "  since: 2026-11-20T08:00:00+00:00\n"
        "  note: look\n"
        "  acknowledge: trueup alert ack f1\n"
        "\n"
        "* RESOLVED deployment=late\n"
        "  since: 2026-11-20T07:00:00+00:00, until 2026-11-20T08:00:00+00:00\n"
        "\n"
        "In common: alertname=ScoreDrift, severity=warning\n"
    )
    assert '<a href="https://runbooks.example/drift">Runbook</a>' in shown.html
    assert "0.31" in shown.html


def test_what_a_single_alert_says_is_said_though_it_is_all_in_common():
    one = {
        **ALERTS,
        "commonLabels": ALERTS["alerts"][0]["labels"],
        "commonAnnotations": {"description": "Look.", "owner": "desk", "n": "40", "runbook_url": "docs/drift.md"},
        "alerts": ALERTS["alerts"][:1],
    }
    shown = rendered(one)
    assert shown.text.startswith(
        "Look.\n\n1 firing, 0 resolved.\n\nRunbook: docs/drift.md\nn: 40\nowner: desk\n\n* FIRING\n"
    )
    for said in ("Runbook: docs/drift.md", "owner:</span> desk", "n:</span> 40", "<code>trueup alert ack f1</code>"):
        assert said in shown.html


def test_alerts_that_have_no_sentence_in_common_are_named_by_their_group():
    given = {**ALERTS, "commonAnnotations": {}, "groupLabels": {"alertname": "ScoreDrift", "deployment": "fails"}}
    assert rendered(given).subject == "[FIRING] ScoreDrift (warning) fails"


def test_a_group_that_is_over_says_so():
    over = {**ALERTS, "status": "resolved", "alerts": [ALERTS["alerts"][1]]}
    assert rendered(over).subject == "[RESOLVED] ScoreDrift (warning): scores drift"


def test_html_is_escaped_and_links_lead_to_web_addresses_alone():
    hostile = {
        **ALERTS,
        "commonAnnotations": {"summary": "<script>x</script>", "runbook_url": "javascript:alert(1)"},
        "alerts": [{**ALERTS["alerts"][0], "labels": {"<b>": "</td><img src=x onerror=1>"}}],
    }
    shown = rendered(hostile)
    assert "<script>" not in shown.html
    assert "<img" not in shown.html
    assert 'href="javascript:' not in shown.html
    assert "<script>x</script>" in shown.subject  # which is text


def test_a_subject_is_one_line():
    shown = rendered({**ALERTS, "commonAnnotations": {"summary": "a\r\nBcc: b@c.example"}})
    assert shown.subject == "[FIRING] ScoreDrift (warning): a Bcc: b@c.example"


def test_labels_may_be_named_like_methods():
    shown = rendered({**ALERTS, "alerts": [{**ALERTS["alerts"][0], "labels": {"items": "a", "__class__": "b"}}]})
    assert "items=a" in shown.text
    assert "__class__=b" in shown.text


def test_many_alerts_are_counted_and_long_values_cut():
    many = {**ALERTS, "alerts": [ALERTS["alerts"][0]] * 60, "truncatedAlerts": 7}
    shown = rendered(many, rendered_alerts=50)
    assert shown.text.count("* FIRING") == 50
    assert "and 17 more" in shown.text
    long = {**ALERTS, "alerts": [{**ALERTS["alerts"][0], "annotations": {"note": "x" * 50_000}}] * 50}
    shown = rendered(long)
    assert len(shown.text) <= 20_000
    assert shown.text.strip().endswith("[cut]")


@pytest.mark.parametrize(
    "payload", [{}, {"alerts": None}, {"alerts": [1, None, {}]}, {"commonLabels": [1], "status": 5}]
)
def test_an_odd_payload_is_rendered_too(payload: dict[str, Any]):
    assert rendered(payload).subject


def test_templates_of_ones_own_come_first(tmp_path: Path):
    (tmp_path / "alert.txt").write_text("{% for a in alerts %}{{ a.labels.deployment }};{% endfor %}")
    shown = rendered(templates=tmp_path)
    assert shown.text == "fails;late;\n"
    assert shown.subject == "[FIRING] ScoreDrift (warning): scores drift"


def test_figures_can_be_rounded(tmp_path: Path):
    (tmp_path / "alert.txt").write_text("{{ alerts[0].value|round(1) }} {{ 1.26|round(999999999) }}")
    assert rendered(templates=tmp_path).text == "0.3 1.26\n"


def test_one_that_fails_gives_way_to_the_shipped_one(tmp_path: Path):
    for template in ("{{ alerts + 1 }}", "{{ 1 / 0 }}", "{{ 1|round(1, 'floor') }}", "{{ missing.value.value }}"):
        (tmp_path / "alert.txt").write_text(template)
        assert rendered(templates=tmp_path).text == rendered().text


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}{{ range(10) }}",
        "{% macro m() %}{{ m() }}{% endmacro %}",
        "{% include 'x' %}",
        "{% import 'x' as x %}",
        "{% extends 'x' %}",
        "{% set x = 1 %}",
        "{{ 'x' * 1000000000 }}",
        "{{ '%999999999d' % 1 }}",
        "{{ 9 ** 999999999 }}",
        "{{ '{:>999999999}'.format(1) }}",
        "{% for a in alerts recursive %}{{ loop(alerts) }}{% endfor %}",
        "{% for a in alerts %}" * 4 + "{% endfor %}" * 4,
        "{{ 1|center(100000000) }}",
        "{{ status|join(status) }}",
        "{{ unclosed",
        "x" * 70_000,
    ],
)
def test_what_templates_may_not_do_is_said_when_they_are_read(tmp_path: Path, template: str):
    (tmp_path / "alert.html").write_text(template)
    with pytest.raises(InvalidFile):
        rendered(templates=tmp_path)


@pytest.mark.parametrize("name", ["alerts.__class__", "alerts[0].labels.keys", "status.upper", "loop", "config"])
def test_data_has_no_attributes(tmp_path: Path, name: str):
    (tmp_path / "alert.txt").write_text("{{ " + name + " }}.")
    assert rendered(templates=tmp_path).text == ".\n"


def test_what_templates_write_is_cut(tmp_path: Path):
    loops = "{% for a in alerts %}" * 3 + "{{ commonAnnotations.summary }}" + "{% endfor %}" * 3
    (tmp_path / "alert.txt").write_text(loops)
    many = {**ALERTS, "alerts": ALERTS["alerts"] * 500, "commonAnnotations": {"summary": "s" * 2_000}}
    assert len(rendered(many, templates=tmp_path, rendered_alerts=1_000).text) <= 20_000


def test_who_wants_no_html_has_an_empty_template(tmp_path: Path):
    (tmp_path / "alert.html").write_text("")
    assert rendered(templates=tmp_path).html == ""


def test_only_an_alert_that_has_no_text_is_worded():
    rendering = Rendering(Notifying())
    alert = Message("k", "desk", "alert", "", "", payload=ALERTS)
    assert rendering.worded(alert).subject == rendered().subject
    assert (rendering.worded(alert).text, rendering.worded(alert).html) == (rendered().text, rendered().html)
    for other in (replace(alert, kind="report"), replace(alert, text="said already")):
        assert rendering.worded(other) == other


def test_what_tells_of_alerts_uses_the_shipped_templates_where_others_cannot_be_used(tmp_path: Path):
    (tmp_path / "alert.txt").write_text("{{ nothing")
    bounds = Notifying(templates=tmp_path)
    with pytest.raises(InvalidFile):
        Rendering(bounds)
    assert lenient(bounds).alert(ALERTS) == rendered()
