"""What must hold of any two statuses of a job that follow each other."""

from __future__ import annotations

from kubooth_operator.plan import Manifest


def check_progression(old: Manifest, new: Manifest) -> None:
    """What holds of any two statuses that follow each other."""
    assert new.get("attempts", 0) - old.get("attempts", 0) in {0, 1}, "attempts grow one by one"
    assert new.get("restarts", 0) - old.get("restarts", 0) in {0, 1}, "restarts grow one by one"
    assert new.get("activeSeconds", 0) >= old.get("activeSeconds", 0)
    assert new.get("deviceSeconds", 0) >= old.get("deviceSeconds", 0)
    if new.get("attempts", 0) > 1 and new["attempts"] > old.get("attempts", 0):
        assert "outcome" in old.get("attempt", {}) or new["attempt"]["number"] == new["attempts"]
    types = [each["type"] for each in new.get("conditions", ())]
    assert len(types) == len(set(types))
    true = {each["type"] for each in new.get("conditions", ()) if each["status"] == "True"}
    assert not {"Succeeded", "Failed"} <= true
    assert ("Succeeded" in true) == (new.get("phase") == "Succeeded")
    assert ("Failed" in true) == (new.get("phase") == "Failed")
