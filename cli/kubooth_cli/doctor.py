"""`kubooth doctor`: what is wrong with an installation, one line for each thing, and what to do."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from kubooth_cli.cluster.buckets import endpoint_option
from kubooth_cli.cluster.output import show_value
from kubooth_cli.cluster.session import FAILED, OK, Session, on_cluster

if TYPE_CHECKING:
    from kubooth_cli.cluster.findings import Finding

_MARKS = {"ok": ("ok", "green"), "fault": ("FAULT", "red"), "unknown": ("?", "yellow")}


@click.command(name="doctor")
@click.option("--runtime", "runtime_name", default="default", show_default=True, help="Runtime to look at.")
@click.option(
    "--operator-namespace",
    default="kubooth-system",
    show_default=True,
    help="Where the operator is, if it is not found.",
)
@endpoint_option
@click.option("-o", "--output", "form", type=click.Choice(["json", "yaml"]), help="Form of the output.")
@on_cluster
async def doctor_command(
    session: Session, runtime_name: str, operator_namespace: str, endpoint: str | None, form: str | None
) -> int:
    """Find what is wrong with an installation, for jobs of a namespace under a runtime.

    Looks at the version of Kubernetes, CRDs, the admission policy, the operator and its rights, the runtime, the
    Secret with credentials, the buckets that the runtime names, and the devices of the nodes. It changes nothing.
    What you may not look at is marked with a question mark.

    Exit code: 0 if no fault was found, 1 if one was.
    """
    found = await _examine(session, runtime_name, operator_namespace, endpoint)
    if form:
        show_value(form, [asdict(each) for each in found])
    else:
        for each in found:
            mark, colour = _MARKS[each.state]
            click.echo(f"{click.style(f'{mark:<6}', fg=colour)} {each.check}: {each.message}")
            if each.remedy:
                click.echo(f"       {each.remedy}")
    return FAILED if any(each.state == "fault" for each in found) else OK


async def _examine(session: Session, runtime_name: str, namespace: str, endpoint: str | None) -> list[Finding]:
    from kubooth_cli.cluster import installation, surroundings
    from kubooth_cli.cluster.findings import unknown
    from kubooth_cli.cluster.installation import guarded

    found = [await installation.version(session)]
    found += await guarded("crds", installation.definitions(session))
    found += await guarded("policy", installation.policy(session))
    operator = await installation.find_operator(session, namespace)
    found += await guarded("rights", installation.operator_rights(session, operator))
    found += await guarded("operator", installation.operator(session, operator))
    if any(each.check.startswith("crd") and each.state == "fault" and "missing" in each.message for each in found):
        return [*found, unknown("runtime", "not looked at: a CRD is missing")]

    spec: Any = None
    keys: Any = None

    async def runtime() -> Finding:
        nonlocal spec
        finding, spec = await surroundings.runtime(session, runtime_name)
        return finding

    async def credentials() -> Finding:
        nonlocal keys
        finding, keys = await surroundings.credentials(session, spec)
        return finding

    found += await guarded(f"runtime {runtime_name}", runtime())
    if spec is None:
        return found
    found += await guarded("credentials", credentials())
    found += await guarded("buckets", surroundings.buckets(session, spec, keys, endpoint))
    found += await guarded("devices", surroundings.devices(session, spec))
    return found
