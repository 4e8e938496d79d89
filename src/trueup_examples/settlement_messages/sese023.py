"""sese.023, SecuritiesSettlementTransactionInstruction: what a model asks of it, as plain Python.

The entry point ``sese.023`` of the group ``trueup.formats``. Messages come from outside of the house, so
the parser fetches nothing, loads no document type, replaces no entity, and stops at 256 levels.
"""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal
from typing import Any

from trueup.errors import InvalidInput, MissingExtra

try:
    from lxml import etree
except ImportError:
    raise MissingExtra("iso20022", "reading sese.023 messages") from None

_BYTES = 2**20
_NAMESPACE = re.compile(r"urn:iso:std:iso:20022:tech:xsd:sese\.023\.001\.\d\d\Z")
_ISIN = re.compile(r"[A-Z]{2}[A-Z0-9]{9}[0-9]\Z")
_BIC = re.compile(r"[A-Z0-9]{4}[A-Z]{2}[A-Z0-9]{2}([A-Z0-9]{3})?\Z")
_NUMBER = re.compile(r"[0-9]{1,18}(\.[0-9]{1,17})?\Z", re.ASCII)
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_PAYMENT = {"APMT": "against_payment", "FREE": "free_of_payment"}
_MOVEMENT = {"DELI": "delivery", "RECE": "receipt"}
_QUANTITIES = ("Unit", "FaceAmt", "AmtsdVal")


def instruction(data: bytes) -> dict[str, Any]:
    """The instruction's fields; what it does not say is None. Raises InvalidInput, without any value of it."""
    message = _message(data)
    delivering, receiving = _parties(message, "DlvrgSttlmPties"), _parties(message, "RcvgSttlmPties")
    kind, quantity = _quantity(message)
    amount, currency = _amount(message)
    trade, settlement = _day(message, "TradDtls/TradDt"), _day(message, "TradDtls/SttlmDt")
    return {
        "transaction_id": _text(message, "TxId", 35),
        "movement": _code(message, "SttlmTpAndAddtlParams/SctiesMvmntTp", _MOVEMENT),
        "payment": _code(message, "SttlmTpAndAddtlParams/Pmt", _PAYMENT),
        "trade_date": trade,
        "settlement_date": settlement,
        "days_to_settle": None if trade is None or settlement is None else (settlement - trade).days,
        "isin": _matched(_text(message, "FinInstrmId/ISIN", 12), _ISIN, "ISIN"),
        "quantity_type": kind,
        "quantity": quantity,
        "amount": amount,
        "currency": currency,
        "delivering_party": delivering,
        "receiving_party": receiving,
    }


def _message(data: bytes) -> Any:
    if len(data) > _BYTES:
        raise InvalidInput("a message larger than 1 MiB")
    if b"<!DOCTYPE" in data:
        raise InvalidInput("a message with a document type, which ISO 20022 has not")
    parser = etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        load_dtd=False,
        dtd_validation=False,
        attribute_defaults=False,
        no_network=True,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        root = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError):
        raise InvalidInput("not XML in UTF-8") from None
    document = root if etree.QName(root).localname == "Document" else root.find("{*}Document")
    if document is None or not _NAMESPACE.match(etree.QName(document).namespace or ""):
        raise InvalidInput("not a sese.023 document")
    found = _at(document, "SctiesSttlmTxInstr")
    if found is None:
        raise InvalidInput("a document without its instruction")
    return found


def _at(element: Any, path: str) -> Any:
    """What lies at a path of names, all of the message's own namespace."""
    space = etree.QName(element).namespace
    return element.find("/".join(f"{{{space}}}{name}" for name in path.split("/")))


def _text(message: Any, path: str, most: int) -> str | None:
    element = _at(message, path)
    text = None if element is None else (element.text or "").strip()
    if text is not None and (len(text) > most or len(element)):
        raise InvalidInput(f"{path} is longer than {most} characters, or no text")
    return text or None


def _matched(text: str | None, form: re.Pattern[str], what: str) -> str | None:
    if text is not None and not form.match(text):
        raise InvalidInput(f"what should be an {what} has not its form")
    return text


def _code(message: Any, path: str, words: dict[str, str]) -> str | None:
    code = _text(message, path, 4)
    if code is None:
        return None
    if code not in words:
        raise InvalidInput(f"{path} is none of {', '.join(words)}")
    return words[code]


def _day(message: Any, path: str) -> dt.date | None:
    """A day, or the day of a moment as it is written."""
    text = _text(message, f"{path}/Dt/Dt", 10) or _text(message, f"{path}/Dt/DtTm", 40)
    if text is None:
        return None
    found = _DAY.match(text)
    try:
        return dt.date.fromisoformat(found[0] if found else "")
    except ValueError:
        raise InvalidInput(f"{path} is no day") from None


def _quantity(message: Any) -> tuple[str | None, Decimal | None]:
    """How the quantity is counted, and the quantity; later versions have one level more."""
    for name in _QUANTITIES:
        for path in (f"QtyAndAcctDtls/SttlmQty/Qty/{name}", f"QtyAndAcctDtls/SttlmQty/{name}"):
            number = _number(_text(message, path, 40), path)
            if number is not None:
                return name, number
    return None, None


def _amount(message: Any) -> tuple[Decimal | None, str | None]:
    element = _at(message, "SttlmAmt/Amt")
    if element is None:
        return None, None
    currency = element.get("Ccy")
    if currency is None or not re.match(r"[A-Z]{3}\Z", currency):
        raise InvalidInput("SttlmAmt/Amt has no currency")
    return _number(_text(message, "SttlmAmt/Amt", 40), "SttlmAmt/Amt"), currency


def _number(text: str | None, path: str) -> Decimal | None:
    if text is None:
        return None
    if not _NUMBER.match(text):
        raise InvalidInput(f"{path} is no number")
    return Decimal(text)


def _parties(message: Any, side: str) -> str | None:
    """The BIC of the side's first party, else of its depository."""
    for party in ("Pty1", "Dpstry"):
        text = _text(message, f"{side}/{party}/Id/AnyBIC", 11)
        if text is not None:
            return _matched(text, _BIC, "BIC")
    return None
