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

Identifier = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]{1,64}\Z")]
AmountCents = Annotated[int, msgspec.Meta(ge=1, le=10**9)]
Reason = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a customer ordered. Ids are the client's own."""

    order_id: Identifier
    customer_id: Identifier
    amount_cents: AmountCents
    currency: str

    def __post_init__(self) -> None:
        _check_currency(self.currency)


class Refund(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Money that goes back to a customer."""

    order_id: Identifier
    customer_id: Identifier
    amount_cents: AmountCents
    currency: str
    reason: Reason

    def __post_init__(self) -> None:
        _check_currency(self.currency)


def _check_currency(code: str) -> None:
    if code not in CURRENCIES:
        raise ValueError(f"currency {code[:20]!r} is not an ISO 4217 code")
