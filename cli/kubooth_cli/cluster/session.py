"""A command's connection to a cluster: kubectl's options, and one sentence and one exit code for what can go wrong.

    @click.command(name="list")
    @on_cluster
    async def list_command(session: Session, ...) -> int: ...

The Kubernetes client is imported when a command runs, never for its `--help`.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec

import click

from kubooth_cli import __version__
from kubooth_operator.api.problems import SpecError
from kubooth_trainer.errors import ExitCode, KuboothError

if TYPE_CHECKING:
    from kubooth_operator.client import Api, ApiError

OK: Final = int(ExitCode.OK)
FAILED: Final = 1
"""The job has failed, or `doctor` has found something."""
WRONG: Final = int(ExitCode.FIX_AND_RESUBMIT)
"""An option, a file or a name is wrong."""
UNAVAILABLE: Final = int(ExitCode.RETRY)
"""The cluster or the storage does not answer."""
NOT_ALLOWED: Final = 77
"""The cluster knows the caller not, or does not let them."""

P = ParamSpec("P")


class CommandError(Exception):
    """A sentence for the user, and the exit code."""

    def __init__(self, message: str, code: int = WRONG) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, kw_only=True)
class Session:
    """One command's connection. `namespace` is the one given, else the context's."""

    api: Api
    namespace: str
    server: str  # address of the API server
    given_namespace: str | None = None  # by -n


def on_cluster(command: Callable[Concatenate[Session, P], Coroutine[Any, Any, int]]) -> Callable[..., None]:
    """Gives a command kubectl's options and a session; what it returns is the exit code."""

    @click.option("--kubeconfig", metavar="FILE", help="Kubeconfig to use; else KUBECONFIG, else ~/.kube/config.")
    @click.option("--context", metavar="NAME", help="Context of the kubeconfig to use.")
    @click.option("-n", "--namespace", metavar="NAME", help="Namespace to use; else the context's.")
    @functools.wraps(command)
    def run(kubeconfig: str | None, context: str | None, namespace: str | None, **options: Any) -> None:
        here = click.get_current_context()
        try:
            code = asyncio.run(_with_session(command, kubeconfig, context, namespace, options))
        except CommandError as error:
            click.echo(f"{here.command_path}: {error}", err=True)
            code = error.code
        here.exit(code)

    return run


async def _with_session(
    command: Callable[..., Coroutine[Any, Any, int]],
    kubeconfig: str | None,
    context: str | None,
    namespace: str | None,
    options: dict[str, Any],
) -> int:
    session = await open_session(kubeconfig, context, namespace)
    from kubooth_operator.client import ApiError

    try:
        return await command(session, **options)
    except ApiError as error:
        raise told(error, session) from error
    except SpecError as error:
        raise CommandError("; ".join(map(str, error.errors))) from error
    except KuboothError as error:
        raise CommandError(str(error), int(error.exit_code)) from error
    finally:
        await session.api.close()


async def open_session(kubeconfig: str | None, context: str | None, namespace: str | None) -> Session:
    """Reads the kubeconfig; the first request connects. Raises CommandError."""
    try:
        from kubooth_operator.client import NoClusterError, connect_as_user
    except ImportError as error:
        raise CommandError(f"{error}: install what the cluster commands need, pip install 'kubooth[cluster]'") from None
    try:
        api, own, server = await connect_as_user(f"kubooth/{__version__}", kubeconfig=kubeconfig, context=context)
    except NoClusterError as error:
        why = " ".join(str(error).split())
        raise CommandError(f"no cluster: {why}; name a kubeconfig with --kubeconfig or KUBECONFIG") from error
    return Session(api=api, namespace=namespace or own, server=server, given_namespace=namespace)


def told(error: ApiError, session: Session) -> CommandError:
    """What the API server's refusal means to a person."""
    from kubooth_operator.client import TemporaryError

    message = " ".join(str(error).split())
    if error.status == 401:
        return CommandError(
            f"{session.server} does not accept your credentials: they may have expired, so log in to the cluster again",
            NOT_ALLOWED,
        )
    if error.status == 403:
        return CommandError(f"you are not allowed to do this: {message}", NOT_ALLOWED)
    if is_unknown_kind(error):
        return CommandError(f"Kubooth is not installed on {session.server}: kubooth doctor says what is missing")
    if isinstance(error, TemporaryError):
        return CommandError(f"{session.server} does not answer as it should: {message}", UNAVAILABLE)
    return CommandError(message)


def is_unknown_kind(error: ApiError) -> bool:
    """Whether the API server lacks the kind itself, not one object of it."""
    return error.status == 404 and any(
        words in str(error) for words in ("page not found", "could not find the requested resource")
    )
