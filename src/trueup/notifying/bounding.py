"""Messages as they can be stored and sent: whatever was said, within the bounds.

Adding a message never fails for what it says: that would undo what it tells of. What is too long is cut, and says so.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from trueup.domain.message import Attachment, Message
from trueup.settings import Notifying

CUT = " [cut]"
KEY_CHARS = 400
NAME_CHARS = 200
DEPTH = 12
INTEGER_BITS = 1_024
_LINE_ENDS = dict.fromkeys((*range(32), *range(127, 160), 0x2028, 0x2029), " ")
_CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if code not in (9, 10)}


def bounded(message: Message, bounds: Notifying) -> Message:
    """The message within the bounds; the same one where it is within them already."""
    attachments, left_out = _attachments(message, bounds)
    html = storable(message.html)
    text = cut(storable(message.text), bounds.text_chars - len(left_out)) + left_out
    return replace(
        message,
        key=identifier(message.key),
        receiver=one_line(message.receiver, NAME_CHARS),
        kind=one_line(message.kind, NAME_CHARS),
        ordering=identifier(message.ordering),
        subject=one_line(message.subject, bounds.subject_chars),
        text=text,
        html=html if len(html) <= bounds.html_chars and not left_out else "",
        payload=_payload(message.payload, bounds.payload_bytes),
        attachments=attachments,
    )


def identifier(text: str) -> str:
    """A key as it is, or where it is too long its beginning and its digest."""
    if len(text) <= KEY_CHARS and storable(text) == text:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
    return f"{storable(text)[: KEY_CHARS - 65]}:{digest}"


def one_line(text: str, most: int) -> str:
    """Without line ends and other control characters, and no longer than that: what may stand in a header."""
    return cut(" ".join(storable(text.translate(_LINE_ENDS)).split()), most)


def storable(text: str) -> str:
    """Without control characters and halves of surrogate pairs, which neither databases nor protocols take."""
    return text.replace("\r\n", "\n").translate(_CONTROLS).encode("utf-8", "replace").decode("utf-8")


def cut(text: str, most: int) -> str:
    """The text, or its beginning and that it was cut."""
    return text if len(text) <= most else text[: max(most - len(CUT), 0)] + CUT


def plain(value: Any, depth: int = DEPTH) -> Any:
    """The value as JSON has it: NaN, infinities and endless integers are null, and what is deeper than ``DEPTH``."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if value.bit_length() <= INTEGER_BITS else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth == 0:
        return None
    if isinstance(value, Mapping):
        return {storable(str(name)): plain(inner, depth - 1) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, depth - 1) for inner in value]
    return storable(str(value))


def _payload(given: Mapping[str, Any], most: int) -> dict[str, Any]:
    """Without further alerts where it is too large, counted as Alertmanager does; without anything where that does not
    help."""
    payload: dict[str, Any] = plain(given)
    alerts = payload.get("alerts")
    if _size(payload) <= most:
        return payload
    if isinstance(alerts, list):
        left = most - _size({**payload, "alerts": [], "truncatedAlerts": len(alerts)})
        kept: list[Any] = []
        for alert in alerts:
            left -= _size(alert) + 2
            if left < 0:
                break
            kept.append(alert)
        before = payload.get("truncatedAlerts")
        truncated = len(alerts) - len(kept) + (before if isinstance(before, int) else 0)
        shorter = {**payload, "alerts": kept, "truncatedAlerts": truncated}
        if kept:
            return shorter
    return {name: payload[name] for name in ("version", "status") if isinstance(payload.get(name), str)} | {
        "alerts": [],
        "truncated": True,
    }


def _size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode())


def _attachments(message: Message, bounds: Notifying) -> tuple[tuple[Attachment, ...], str]:
    """Those that fit, and a line about those that do not."""
    kept: list[Attachment] = []
    left = bounds.attachments_bytes
    for attachment in message.attachments:
        if len(kept) < bounds.attachments and len(attachment.content) <= left:
            left -= len(attachment.content)
            name = one_line(attachment.name, NAME_CHARS).replace("/", "_").replace("\\", "_") or "file"
            kept.append(replace(attachment, name=name, media_type=_media_type(attachment.media_type)))
    missing = len(message.attachments) - len(kept)
    return tuple(kept), f"\n\n{missing} file(s) are too large and left out." if missing else ""


def _media_type(text: str) -> str:
    main, _, sub = text.partition(";")[0].strip().lower().partition("/")
    named = all(part and part.isascii() and part.replace("-", "").replace(".", "").replace("+", "").isalnum()
                for part in (main, sub))  # fmt: skip
    return f"{main}/{sub}" if named and main not in ("multipart", "message") else "application/octet-stream"
