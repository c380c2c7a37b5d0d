"""The two business payloads, with every bound that the API promises to check."""

from typing import Annotated, Final

import msgspec

# ISO 4217, the active codes of currencies that are paid with (funds, metals and test codes left out).
CURRENCIES: Final = frozenset(
    """
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CLP
    CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF
    IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD
    MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB
    RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD
    UYU UZS VED VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG
    """.split()
)

# `$` would let a newline pass in Python; JSON Schema's regular expressions do not know \Z.
Identifier = Annotated[
    str,
    msgspec.Meta(pattern=r"^[A-Za-z0-9._-]{1,64}\Z", extra_json_schema={"pattern": "^[A-Za-z0-9._-]{1,64}$"}),
]
AmountCents = Annotated[int, msgspec.Meta(ge=1, le=10**9)]
Currency = Annotated[str, msgspec.Meta(extra_json_schema={"enum": sorted(CURRENCIES)})]
# Control characters out: Postgres stores no NUL in a text.
Reason = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*\Z")]


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a customer ordered. Ids are the client's own."""

    order_id: Identifier
    customer_id: Identifier
    amount_cents: AmountCents
    currency: Currency

    def __post_init__(self) -> None:
        check_currency(self.currency)


class Refund(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Money that goes back to a customer."""

    order_id: Identifier
    customer_id: Identifier
    amount_cents: AmountCents
    currency: Currency
    reason: Reason

    def __post_init__(self) -> None:
        check_currency(self.currency)


def check_currency(code: str) -> None:
    """Raises ValueError unless it is an active ISO 4217 code; the text begins with the field's name."""
    if code not in CURRENCIES:
        raise ValueError(f"currency {code[:20]!r} is not an ISO 4217 code")
