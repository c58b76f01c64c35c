"""Names of jobs as an argument, which a shell can complete from the cluster."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

import click

_SECONDS: Final = 3.0
"""Longer than this nobody waits for a completion."""


def _names(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Jobs of the namespace that the line names so far; none where the cluster cannot be asked."""
    from kubooth_cli.cluster.jobs import list_jobs
    from kubooth_cli.cluster.session import CommandError, open_session

    given = context.params

    async def ask() -> list[str]:
        session = await open_session(given.get("kubeconfig"), given.get("context"), given.get("namespace"))
        try:
            return [job["metadata"]["name"] for job in await list_jobs(session)]
        finally:
            await session.api.close()

    async def in_time() -> list[str]:
        return await asyncio.wait_for(ask(), _SECONDS)

    with contextlib.suppress(CommandError, TimeoutError, *_api_errors()):
        return [name for name in asyncio.run(in_time()) if name.startswith(incomplete)]
    return []


def _api_errors() -> tuple[type[Exception], ...]:
    try:
        from kubooth_operator.client import ApiError
    except ImportError:
        return ()
    return (ApiError,)


def job_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """One NAME."""
    return click.argument("name", metavar="NAME", shell_complete=_names)(command)


def jobs_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """One NAME or more."""
    return click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=_names)(command)


def optional_jobs_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Any number of NAMEs; none means all."""
    return click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=_names)(command)
