"""What a call to the third party asks for, checked; no I/O."""

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from services.domain.messages import Coordinates
from services.domain.orders import AmountCents, Currency, Identifier, check_currency
from services.http.keys import HEADER, check_key
from services.http.problem import Problem

RECORD_HEADER: Final = "Lab-Record"  # topic/partition/offset of the record that the caller works on
NOT_AFTER_HEADER: Final = "Lab-Not-After"  # Unix time in seconds, up to which an unknown key may be applied

_RECORD: Final = re.compile(r"([A-Za-z0-9._-]{1,249})/([0-9]{1,9})/([0-9]{1,18})")
_SECONDS: Final = re.compile(r"[0-9]{1,11}(\.[0-9]{1,9})?")
_AGENT: Final = "delivery-lab/"
_LIFE_LENGTH: Final = 100


class Charge(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Take money from a customer."""

    account: Identifier
    message_id: Identifier
    customer_id: Identifier
    amount_cents: AmountCents
    currency: Currency

    def __post_init__(self) -> None:
        check_currency(self.currency)


class Email(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tell a customer."""

    account: Identifier
    message_id: Identifier
    customer_id: Identifier


class Caller(msgspec.Struct, frozen=True):
    """Who calls, and for which record."""

    record: Coordinates
    life: str  # of `User-Agent: delivery-lab/LIFE`; of others the whole agent


def caller_of(headers: Mapping[str, str]) -> Caller:
    """Raises Problem that names the header when `Lab-Record` is missing or no coordinates."""
    found = _RECORD.fullmatch(headers.get(RECORD_HEADER, ""))
    if found is None:
        raise Problem("invalid", f"{RECORD_HEADER} must be topic/partition/offset", field=RECORD_HEADER)
    agent = headers.get("user-agent", "")
    life = agent.removeprefix(_AGENT)[:_LIFE_LENGTH]
    return Caller(Coordinates(found[1], int(found[2]), int(found[3])), life)


def key_of(headers: Mapping[str, str]) -> str | None:
    """The Idempotency-Key, None when none was sent. Raises Problem for one that is empty or too long."""
    text = headers.get(HEADER)
    return None if text is None else check_key(text)


def not_after_s(headers: Mapping[str, str]) -> float | None:
    """The time up to which the call may be applied, None without a bound. Raises Problem for anything but seconds."""
    text = headers.get(NOT_AFTER_HEADER)
    if text is None:
        return None
    if not _SECONDS.fullmatch(text):
        raise Problem("invalid", f"{NOT_AFTER_HEADER} must be Unix seconds, in decimal", field=NOT_AFTER_HEADER)
    return float(text)
