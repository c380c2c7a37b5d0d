"""Every long proof, in the order in which they run: those with the same arms together."""

from typing import Final

from loadtest.storms import again, freezes, outage, poison, servers, telemetry, zombies
from loadtest.storms.proof import Proof

_ALL: Final = (
    *freezes.PROOFS,
    *zombies.PROOFS,
    *poison.PROOFS,
    *again.PROOFS,
    *servers.PROOFS,
    *outage.PROOFS,
    *telemetry.PROOFS,
)

PROOFS: Final[tuple[Proof, ...]] = tuple(sorted(_ALL, key=lambda proof: (proof.publishers, proof.consumers)))
