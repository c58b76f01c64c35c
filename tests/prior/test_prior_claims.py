"""Claims of others: a renewed one binds, a silent or a stuck one lapses."""

from __future__ import annotations

from kubooth_trainer.prior_claims import Lease, OthersClaims

LEASE = Lease(seconds=20, hold_seconds=900)


def test_a_claim_binds_while_it_is_renewed() -> None:
    now = 0.0
    claims = OthersClaims(LEASE, clock=lambda: now)
    assert not claims.binds(3)
    assert claims.version(3) is None
    for renewal in range(10):
        claims.see({3: f"v{renewal}"})
        now += 15
        assert claims.binds(3)
    assert claims.version(3) == "v9"


def test_a_claim_that_is_not_renewed_lapses() -> None:
    now = 0.0
    claims = OthersClaims(LEASE, clock=lambda: now)
    claims.see({3: "v"})
    now = 21.0
    claims.see({3: "v"})
    assert not claims.binds(3)
    assert claims.version(3) == "v"  # what a takeover replaces
    claims.forget(3)
    assert claims.version(3) is None


def test_a_claim_that_leads_to_nothing_lapses_however_often_it_is_renewed() -> None:
    now = 0.0
    claims = OthersClaims(LEASE, clock=lambda: now)
    while now <= 900:
        claims.see({3: f"v{now}"})
        now += 10
    assert not claims.binds(3)
    claims.see({})
    claims.see({3: "anew"})
    assert claims.binds(3)
