"""What is known of the cluster, told by sources that keep their own pace."""

from __future__ import annotations

from typing import Any

from kubooth_operator.cache import Cache, Key, Store, job_key, key_of, uid_of
from kubooth_operator.kinds import BATCH_JOB, POD
from kubooth_operator.names import child_labels

KEY = Key("ns", "rex")


def thing(version: int, *, name: str = "rex", uid: str = "u1", **fields: Any) -> dict[str, Any]:
    metadata = {"namespace": "ns", "name": name, "uid": uid, "resourceVersion": str(version), "managedFields": [{}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {**metadata, **fields}}


def test_the_newest_version_stays() -> None:
    store = Store()
    assert store.put(thing(5))
    assert not store.put(thing(5))
    assert not store.put(thing(4))
    assert store.put(thing(10))
    assert store.get(KEY) == {**thing(10), "metadata": store.get(KEY)["metadata"]}  # type: ignore[index]
    assert "managedFields" not in store.get(KEY)["metadata"]  # type: ignore[index]


def test_versions_are_numbers() -> None:
    store = Store()
    store.put(thing(99))
    assert store.put(thing(100))


def test_what_was_deleted_does_not_come_back() -> None:
    store = Store()
    store.put(thing(5))
    assert store.remove(KEY, "u1", 7)
    assert not store.remove(KEY, "u1", 7)
    assert not store.put(thing(6)), "an answer that arrives after the deletion"
    assert store.put(thing(8, uid="u2")), "another object of the name"


def test_what_lost_its_label_comes_back_with_it() -> None:
    store = Store()
    store.put(thing(5))
    assert store.remove(KEY, "u1", 7)
    assert store.put(thing(8))


def test_what_was_deleted_in_an_unknown_version_does_not_come_back() -> None:
    store = Store()
    store.put(thing(5))
    assert store.remove(KEY, "u1")
    assert not store.put(thing(5))


def test_a_deletion_of_the_old_leaves_the_new() -> None:
    store = Store()
    store.put(thing(5))
    store.put(thing(9, uid="u2"))
    assert not store.remove(KEY, "u1")
    assert uid_of(store.get(KEY)) == "u2"  # type: ignore[arg-type]


def test_pruning_drops_what_a_list_lacks_and_keeps_what_is_newer() -> None:
    store = Store()
    store.put(thing(5, name="gone", uid="u1"))
    store.put(thing(6, name="there", uid="u2"))
    store.put(thing(12, name="created-meanwhile", uid="u3"))
    gone = store.prune(["u2"], 10)
    assert [key_of(each).name for each in gone] == ["gone"]
    assert sorted(key_of(each).name for each in store) == ["created-meanwhile", "there"]


def test_children_are_found_by_the_uid_of_their_job() -> None:
    cache = Cache()
    mine, other = child_labels("rex", "job-1"), child_labels("rex", "job-2")
    cache.put(thing(1, name="a", uid="a", labels=mine))
    cache.put(thing(2, name="b", uid="b", labels=other))
    owner = {"kind": "PersonalizationJob", "name": "rex", "uid": "job-1", "controller": True}
    batch_job = {"apiVersion": "batch/v1", "kind": "Job"}
    cache.put({**thing(3, name="c", uid="c", labels=other, ownerReferences=[owner]), **batch_job})
    cache.put({**thing(3, name="d", uid="d", labels=mine), **batch_job})
    cache.put(
        {**thing(3, name="e", uid="e", labels=mine, ownerReferences=[{**owner, "controller": False}]), **batch_job}
    )
    assert [key_of(pod).name for pod in cache.pods_of("job-1")] == ["a"]
    assert [key_of(child).name for child in cache.children_of("job-1")] == ["c"]
    assert job_key(cache.pods_of("job-1")[0]) == KEY
    cache.put(thing(4, name="a", uid="a", labels=other))
    assert cache.pods_of("job-1") == ()
    assert [key_of(pod).name for pod in cache.pods_of("job-2")] == ["a", "b"]
    cache.store_of(BATCH_JOB).remove(Key("ns", "c"), "c")
    assert cache.children_of("job-1") == ()
    assert len(cache.store_of(POD)) == 2


def test_jobs_are_found_by_their_runtime() -> None:
    cache = Cache()
    job = {**thing(1), "apiVersion": "kubooth.io/v1alpha1", "kind": "PersonalizationJob"}
    cache.put({**job, "spec": {}})
    assert [key_of(each) for each in cache.jobs.indexed("default")] == [KEY]
    cache.put({**job, "metadata": thing(2)["metadata"], "spec": {"runtimeRef": {"name": "gpu"}}})
    assert cache.jobs.indexed("default") == []
    assert [key_of(each) for each in cache.jobs.indexed("gpu")] == [KEY]
