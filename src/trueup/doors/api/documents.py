"""What the OpenAPI document says beside the models of answers: bodies that handlers read themselves, and errors."""

from __future__ import annotations

from typing import Any

from trueup.domain.batch import Role
from trueup.domain.deployment import Runtime
from trueup.doors.api import schemas

_RETRY_AFTER = {"Retry-After": {"description": "whole seconds after which to come again", "schema": {"type": "string"}}}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.ErrorAnswer, "description": text, **({"headers": _RETRY_AFTER} if again else {})}
    for status, text, again in (
        (400, "the request is wrong", False),
        (401, "no or unknown API key or token", False),
        (403, "the caller's role does not allow it, or not for this deployment", False),
        (404, "unknown name or id", False),
        (408, "the body did not arrive in time", False),
        (409, "the same identity with other content", False),
        (413, "too many bytes or instances", False),
        (422, "an instance or a contract is wrong; `fields` names where", False),
        (429, "the caller's rate is reached: try again after `Retry-After` seconds", True),
        (500, "the model or the server failed", False),
        (503, "try again after `Retry-After` seconds", True),
        (504, "the time was over first: try again under the same key", False),
    )
}
# Of a call without parameters.
READING: dict[int | str, dict[str, Any]] = {status: ERRORS[status] for status in (401, 403, 429, 500, 503)}

_FEATURES = {"settlement_date": "2026-11-20", "cusip": "037833100", "last_value_usd": 1250000.0}
_VALUE = {"type": ["string", "number", "boolean", "null"]}
_INSTANCE = {"type": "object", "additionalProperties": _VALUE}
SCORE_SCHEMA: dict[str, Any] = {
    "oneOf": [
        {
            "title": "ScoreOne",
            "type": "object",
            "required": ["instance"],
            "additionalProperties": False,
            "properties": {
                "instance": {**_INSTANCE, "description": "the contract's fields by name"},
                "key": {"type": "string", "description": "idempotency key: a retry gets the first answer"},
                "event_time": {
                    "type": "string",
                    "format": "date-time",
                    "description": "where the contract names no field for it",
                },
                "reasons": {"type": "boolean", "default": False},
            },
        },
        {
            "title": "ScoreMany",
            "type": "object",
            "required": ["instances"],
            "additionalProperties": False,
            "properties": {
                "instances": {"type": "array", "items": _INSTANCE},
                "keys": {"type": "array", "items": {"type": "string"}, "description": "one idempotency key a row"},
                "event_times": {"type": "array", "items": {"type": "string", "format": "date-time"}},
                "reasons": {"type": "boolean", "default": False},
            },
        },
    ]
}
SCORE_EXAMPLES: dict[str, Any] = {
    "single": {"summary": "one instance", "value": {"instance": _FEATURES, "key": "order-4711", "reasons": True}},
    "batch": {"summary": "several instances", "value": {"instances": [_FEATURES], "keys": ["2026-11-20/037833100"]}},
}
OUTCOMES_SCHEMA: dict[str, Any] = {
    "title": "Outcomes",
    "type": "object",
    "required": ["contract", "source", "outcomes"],
    "additionalProperties": False,
    "properties": {
        "contract": {"type": "string"},
        "source": {"type": "string", "description": "where the facts come from, such as a file's name"},
        "outcomes": {
            "description": "rows, or columns as one object of arrays",
            "anyOf": [
                {"type": "array", "items": {**_INSTANCE, "description": "key fields, event_day, value, observed_at"}},
                {"type": "object", "additionalProperties": {"type": "array"}},
            ],
        },
        "label": {"type": "string", "description": "whose values these are; the contract's first label unless given"},
        "state": {"enum": ["known", "retracted", "censored"], "description": "of rows that name none"},
        "all_or_none": {"type": "boolean", "default": True, "description": "false: what fits is recorded"},
    },
}
OUTCOMES_EXAMPLES: dict[str, Any] = {
    "one": {
        "summary": "one outcome",
        "value": {
            "contract": "settlement_fails",
            "source": "cnsfails202611b",
            "outcomes": [{"cusip": "037833100", "event_day": "2026-11-20", "value": True}],
        },
    }
}
_SHORT = {"type": "string", "minLength": 1, "maxLength": 200}
ACTIONS_SCHEMA: dict[str, Any] = {
    "title": "Actions",
    "type": "object",
    "required": ["deployment", "actions"],
    "additionalProperties": False,
    "properties": {
        "deployment": {"type": "string"},
        "actions": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["key", "action"],
                "additionalProperties": False,
                "properties": {
                    "key": {**_SHORT, "description": "its identity: the same key again is the same action"},
                    "action": {**_SHORT, "description": "what was done"},
                    "business_key": {"type": "string", "maxLength": 2000, "description": "with event_day: the item"},
                    "event_day": {"type": "string", "format": "date"},
                    "prediction_id": {"type": "string", "format": "uuid", "description": "names the item instead"},
                    "reason": {"type": "string", "maxLength": 2000},
                    "actor": {**_SHORT, "description": "who did it; the caller unless given"},
                    "acted_at": {"type": "string", "format": "date-time", "description": "now unless given"},
                    "is_treatment": {
                        "type": "boolean",
                        "default": True,
                        "description": "whether it can have changed the outcome",
                    },
                },
            },
        },
    },
}
ACTIONS_EXAMPLES: dict[str, Any] = {
    "one": {
        "summary": "one action",
        "value": {
            "deployment": "fails",
            "actions": [
                {
                    "key": "case-4711/1",
                    "business_key": "037833100",
                    "event_day": "2026-11-20",
                    "action": "borrowed the securities",
                    "reason": "first on the list",
                    "actor": "desk/ann",
                }
            ],
        },
    }
}
DEPLOY_SCHEMA: dict[str, Any] = {
    "title": "Deploy",
    "type": "object",
    "required": ["name", "version", "contract", "artifacts"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string"},
        "version": {"type": "string"},
        "contract": {
            "description": "YAML text, or the same as an object",
            "anyOf": [{"type": "string"}, {"type": "object", "additionalProperties": True}],
        },
        "artifacts": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["runtime", "digest"],
                "properties": {
                    "runtime": {"type": "string", "enum": [str(r) for r in Runtime if r is not Runtime.PYTHON]},
                    "digest": {"type": "string", "description": "SHA-256 (hex) of a model in the server's store"},
                },
            },
        },
        "role": {"type": "string", "enum": [str(r) for r in Role], "default": "champion"},
        "serving": {
            "type": "object",
            "additionalProperties": True,
            "description": "see the reference of `trueup deploy --serving`",
        },
        "libraries": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
DEPLOY_EXAMPLES: dict[str, Any] = {
    "version": {
        "summary": "a version from the store",
        "value": {
            "name": "fails",
            "version": "2026-11",
            "contract": "name: settlement_fails\nversion: 1\n...",
            "artifacts": [
                {"runtime": "xgboost", "digest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}
            ],
        },
    }
}


def request_body(schema: dict[str, Any], examples: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI description of a body that a handler reads itself."""
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema, "examples": examples}}}
    }
