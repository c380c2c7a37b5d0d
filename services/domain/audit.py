"""The row of an audit, as machines and people read it (design: the conservation law)."""

import msgspec


class AuditRow(msgspec.Struct, kw_only=True):
    """One hop, arm and effect. Counts are messages, except `extra_applications` and `inherited` (applications)."""

    hop: str
    arm: str
    effect: str
    expected: int = 0
    applied_once: int = 0
    duplicated: int = 0
    extra_applications: int = 0
    lost: int = 0
    unexpected: int = 0
    waiting: int = 0
    dead_lettered: int = 0
    discarded: int = 0
    uncertain: int = 0
    unexplained: int = 0
    also_held: int = 0
    inherited: int = 0

    def accounted(self) -> int:
        """The right-hand side of the law; `lost` has its own evidence, it is never a remainder."""
        held = self.waiting + self.dead_lettered + self.discarded + self.uncertain
        return self.applied_once + self.duplicated + held + self.lost
