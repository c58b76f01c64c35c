"""Keeps one kind of children in the cache: a list, then a watch from there on, for as long as the operator runs.

Only what carries our label is asked for, so that the server does not send every Pod and ConfigMap of the cluster. After
a gap that the server cannot fill (410) the list is read again, and what is no longer in it leaves the cache at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Any, Final

from kubooth_operator.cache import Store, key_of, uid_of, version_of
from kubooth_operator.client import Api, ApiError, GoneError, NotFoundError, TemporaryError
from kubooth_operator.kinds import Kind
from kubooth_operator.names import APP, LABEL_MANAGED_BY
from kubooth_operator.rests import FIRST_REST_SECONDS, LONGEST_REST_SECONDS, SHORT_SECONDS, take_rest

Manifest = dict[str, Any]
SELECTOR: Final = f"{LABEL_MANAGED_BY}={APP}"
_PAGE = "500"
_STREAM_SECONDS = 300

_log = logging.getLogger(__name__)


class Watch:
    """The watch of one kind.

    `on_change` gets each object that changed or went, as it was and as it is: whose it is may be what changed.
    `is_missed` says whether anybody will act on the absence of an object: then it is looked for before it is believed
    to be gone, since one that lost our label looks the same.
    """

    def __init__(
        self,
        api: Api,
        kind: Kind,
        store: Store,
        on_change: Callable[[Manifest], None],
        is_missed: Callable[[Manifest], bool] = lambda _: False,
    ) -> None:
        self._api = api
        self._kind = kind
        self._store = store
        self._on_change = on_change
        self._is_missed = is_missed
        self.listed = asyncio.Event()
        """Set once the cache holds what there was at the start."""

    async def run(self) -> None:
        """Does not return."""
        version: str | None = None
        rest = FIRST_REST_SECONDS
        while True:
            try:
                if version is None:
                    version = await self._list()
                    self.listed.set()
                opened, is_empty = time.monotonic(), True
                async for event in self._api.watch(self._kind.path(), _query(version)):
                    version = await self._take(event)
                    rest, is_empty = FIRST_REST_SECONDS, False
                if is_empty and time.monotonic() - opened < SHORT_SECONDS:
                    rest = await take_rest(rest)
            except GoneError:
                version = None  # the list: soon, but not in a loop where the server goes on refusing
                rest = await take_rest(rest)
            except ApiError as error:
                if not isinstance(error, TemporaryError):  # a right that is missing, or not known yet after a start
                    version = None
                    if rest == LONGEST_REST_SECONDS:
                        _log.warning("watching %s: %s", self._kind.plural, error)
                _log.debug("watching %s: %s", self._kind.plural, error)
                rest = await take_rest(rest)

    async def _list(self) -> str:
        """Reads all, page by page, and drops what is gone. Returns the version that the watch starts from."""
        query = {"labelSelector": SELECTOR, "limit": _PAGE}
        present: set[str] = set()
        while True:
            page = await self._api.get(self._kind.path(), query=query)
            for item in page["items"]:
                manifest = {**item, "apiVersion": self._kind.api_version, "kind": self._kind.kind}
                present.add(uid_of(manifest))
                self._put(manifest)
            version: str = page["metadata"]["resourceVersion"]
            if not (more := page["metadata"].get("continue")):
                break
            query["continue"] = more
        for manifest in self._store.prune(present, int(version)):
            self._on_change(manifest)
        return version

    async def _take(self, event: Manifest) -> str:
        """Takes note of one event; returns its version."""
        manifest = event["object"]
        if event["type"] == "ERROR":
            if manifest.get("code") == 410:
                raise GoneError(str(manifest.get("message")), status=410)
            raise TemporaryError(str(manifest.get("message")), status=int(manifest.get("code") or 0))
        if event["type"] == "DELETED":
            await self._lose(manifest)
        elif event["type"] != "BOOKMARK":
            self._put(manifest)
        version: str = manifest["metadata"]["resourceVersion"]
        return version

    async def _lose(self, manifest: Manifest) -> None:
        key, uid = key_of(manifest), uid_of(manifest)
        known = self._store.get(key)
        if known is not None and uid_of(known) == uid and self._is_missed(known):
            try:
                now = await self._api.get(self._kind.path(*key))
            except NotFoundError:
                now = None
            if now is not None and uid_of(now) == uid:
                self._put(now)
                return
        if self._store.remove(key, uid, version_of(manifest)) and known is not None:
            self._on_change(known)

    def _put(self, manifest: Manifest) -> None:
        known = self._store.get(key_of(manifest))
        if self._store.put(manifest):
            if known is not None:
                self._on_change(known)
            self._on_change(manifest)


def _query(version: str) -> dict[str, str]:
    seconds = round(_STREAM_SECONDS * random.uniform(0.8, 1.2))  # so that not all watches end together
    return {
        "labelSelector": SELECTOR,
        "resourceVersion": version,
        "allowWatchBookmarks": "true",
        "timeoutSeconds": str(seconds),
    }
