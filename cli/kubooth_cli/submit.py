"""`kubooth submit`: from photos in a local folder to a job on the cluster, watched to its end."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import click

from kubooth_cli import format as fmt
from kubooth_cli.cluster.buckets import endpoint_option, storage_at
from kubooth_cli.cluster.output import is_for_programs, name_of, output_option, show
from kubooth_cli.cluster.session import OK, CommandError, Session, on_cluster
from kubooth_operator.api import PersonalizationJob, SpecError
from kubooth_operator.api.job import API_VERSION
from kubooth_operator.api.load import override, parse, read_manifest
from kubooth_operator.api.runtime import PersonalizationRuntime
from kubooth_operator.kinds import JOB
from kubooth_operator.names import JOB_KIND

Manifest = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Upload:
    """Photos of this machine, and where they go."""

    photos: Path
    uri: str


@click.command(name="submit")
@click.argument("file", required=False, type=click.Path(path_type=Path), metavar="[FILE]")
@click.option("--photos", type=click.Path(path_type=Path), metavar="FOLDER", help="Photos to upload, or an archive.")
@click.option("--to", metavar="S3-URI", help="Where to upload them; else the runtime's storage.inbox.")
@click.option("--name", metavar="NAME", help="Name of the job; else the manifest's, else the folder's.")
@click.option("--class", "class_name", metavar="WORD", help="What the photos show: subject.className.")
@click.option("--model", metavar="NAME|URI", help="Base model: an entry of the runtime's catalogue, or a URI.")
@click.option("--result", metavar="S3-URI", help="Where the result goes: output.uri.")
@click.option("--runtime", metavar="NAME", help="Runtime to use: runtimeRef.name.")
@click.option("--set", "overrides", multiple=True, metavar="FIELD=VALUE", help="Set any other field below spec.")
@click.option("--watch/--no-watch", default=None, help="Watch the job until it has ended (the default without -o).")
@click.option("--dry-run", is_flag=True, help="Let the cluster check the job; upload and make nothing.")
@endpoint_option
@output_option()
@on_cluster
async def submit_command(
    session: Session,
    /,
    file: Path | None,
    photos: Path | None,
    to: str | None,
    watch: bool | None,
    dry_run: bool,
    endpoint: str | None,
    form: str | None,
    **fields: Any,
) -> int:
    """Make a job on the cluster, of manifest FILE or of options alone, and watch it.

    Photos of this machine are uploaded first, with your own S3 credentials: those of --photos, or of the folder that
    the manifest names, as in images: file:photos/. The same photos are not uploaded twice.

    Exit code with --watch: 0 if the job succeeded, 1 if it failed. With -o, it is shown on standard error.

    \b
    Examples:
      kubooth submit job.yaml
      kubooth submit --photos rex/ --class dog --model sd15 --result s3://models/personalized/rex/
      kubooth submit job.yaml --set training.steps=400 --no-watch -o name
    """
    raw = _manifest(file, photos, fields)
    session = _in_its_namespace(session, raw)
    photos = photos or _photos_beside(raw, file)
    runtime = await _runtime_of(session, raw, needed=photos is not None and not (to and endpoint))
    spec = (runtime or {}).get("spec") or {}
    upload = _upload(session, raw, photos, to or (spec.get("storage") or {}).get("inbox"))
    if upload is not None:
        raw["spec"].setdefault("subject", {})["images"] = upload.uri
    job = parse(raw, PersonalizationJob)
    _hold_against(job, runtime, session.namespace)
    made = None
    if dry_run or upload is not None:  # what the cluster will not have is not uploaded for
        made = await _create(session, raw, dry_run=True)
    if not dry_run:
        if upload is not None:
            await asyncio.to_thread(_send, upload, spec, endpoint)
        made = await _create(session, raw, dry_run=False)
    assert made is not None
    if is_for_programs(form):
        show(form, [made], as_list=False)
    else:
        click.echo(f"{name_of(made)} created" + (" (dry run: nothing was made)" if dry_run else ""))
    if dry_run or not (watch if watch is not None else not is_for_programs(form)):
        return OK
    from kubooth_cli.cluster.watching import watch as watch_job

    return await watch_job(session, job.metadata.name, err=is_for_programs(form))


def _manifest(file: Path | None, photos: Path | None, fields: dict[str, Any]) -> Manifest:
    """The job as it is to be sent, photos apart. Raises SpecError or CommandError."""
    if file is not None:
        try:
            raw = read_manifest(file)
        except SpecError as error:
            raise CommandError(f"{file}: {error}") from error
    elif photos is not None:
        raw = {"apiVersion": API_VERSION, "kind": JOB_KIND, "metadata": {"name": _name_of(photos)}, "spec": {}}
    else:
        raise CommandError("give a manifest, or --photos with --class, --model and --result")
    raw = override(raw, fields["overrides"])
    _check_groups(raw)
    spec = raw.setdefault("spec", {})
    if fields["name"]:
        raw.setdefault("metadata", {})["name"] = fields["name"]
    if fields["model"]:
        spec["model"] = {"uri" if ":" in fields["model"] else "name": fields["model"]}
    for option, group, field in (
        ("class_name", "subject", "className"),
        ("result", "output", "uri"),
        ("runtime", "runtimeRef", "name"),
    ):
        if fields[option]:
            spec.setdefault(group, {})[field] = fields[option]
    return raw


def _check_groups(raw: Manifest) -> None:
    """Raises SpecError where something stands in place of a group of fields that options go into."""
    spec = raw.get("spec", {})
    groups = [spec, raw.get("metadata", {})]
    if isinstance(spec, dict):
        groups += [spec.get(name, {}) for name in ("subject", "output", "runtimeRef")]
    if not all(isinstance(group, dict) for group in groups):
        parse(raw, PersonalizationJob)


def _name_of(photos: Path) -> str:
    """`My Dog/` as `my-dog`."""
    stem = photos.resolve().name.partition(".")[0].lower()
    return "-".join("".join(ch if ch.isascii() and ch.isalnum() else " " for ch in stem).split())[:45].strip("-")


def _in_its_namespace(session: Session, raw: Manifest) -> Session:
    """The manifest's namespace counts, as with kubectl."""
    own = raw.get("metadata", {}).get("namespace")
    if own and session.given_namespace and own != session.given_namespace:
        raise CommandError(f"the manifest is for namespace {own}, not for {session.given_namespace}")
    return dataclasses.replace(session, namespace=own) if own else session


def _photos_beside(raw: Manifest, file: Path | None) -> Path | None:
    """The folder of this machine that the manifest names."""
    images = raw["spec"].get("subject", {}).get("images")
    if file is None or not isinstance(images, str) or not images.startswith("file:"):
        return None
    path = images.removeprefix("file:")
    return None if path.startswith("/") else file.parent / path.removeprefix("./")  # an absolute one is on the nodes


async def _runtime_of(session: Session, raw: Manifest, *, needed: bool) -> Manifest | None:
    """The job's runtime; None where it cannot be read and is not needed: the operator judges the job anyway.

    It is needed to upload photos: without its endpoint they would go to AWS.
    """
    from kubooth_cli.cluster.jobs import get_runtime
    from kubooth_operator.client import RefusedError

    name = raw["spec"].get("runtimeRef", {}).get("name") or "default"
    try:
        return await get_runtime(session, str(name))
    except RefusedError as error:
        if error.status != 403:
            raise
        if needed:
            message = f"{error} (photos can be uploaded without the runtime: say both --to and --endpoint)"
            raise RefusedError(message, status=error.status) from error
        return None


def _upload(session: Session, raw: Manifest, photos: Path | None, inbox: str | None) -> _Upload | None:
    """What is to be uploaded, and where to; None of a job whose photos are in a bucket already."""
    from kubooth_cli.cluster.photos import digest_of

    if photos is None:
        return None
    if inbox is None:
        raise CommandError("the runtime has no storage.inbox to upload photos to: say --to s3://BUCKET/FOLDER/")
    if not inbox.startswith("s3://"):
        raise CommandError(f"photos can be uploaded to s3:// only, not to {inbox}: say --to s3://BUCKET/FOLDER/")
    folder = f"{(raw.get('metadata') or {}).get('name')}-{digest_of(photos)[:12]}"
    place = inbox.replace("{namespace}", session.namespace).rstrip("/")
    return _Upload(photos=photos, uri=f"{place}/{folder}/" + ("" if photos.is_dir() else photos.name))


def _hold_against(job: PersonalizationJob, runtime: Manifest | None, namespace: str) -> None:
    """Says here what the operator would say later. Raises SpecError."""
    from kubooth_operator.resolve import Target, resolve

    if runtime is None:
        return
    known = {key: runtime["metadata"][key] for key in ("name", "uid", "generation")}
    try:
        parsed = parse({**runtime, "metadata": known}, PersonalizationRuntime)
    except SpecError:
        return  # of another version: the operator knows
    target = Target(
        workdir="/nowhere",
        checkpoints_uri="file:///nowhere/checkpoints",
        base_uri=None,
        devices=None,
        output=None,
        attempt=0,
        namespace=namespace,
    )
    resolve(job, parsed, target)


def _send(upload: _Upload, runtime: Manifest, endpoint: str | None) -> None:
    from kubooth_cli.cluster.photos import send

    count, size = send(storage_at(runtime, endpoint), upload.photos, upload.uri)
    click.echo(f"{count} files ({fmt.size(size)}) are at {upload.uri}", err=True)


async def _create(session: Session, raw: Manifest, *, dry_run: bool) -> Manifest:
    from kubooth_operator.client import AlreadyExistsError

    query = {"fieldManager": "kubooth", "fieldValidation": "Strict", **({"dryRun": "All"} if dry_run else {})}
    try:
        return await session.api.post(JOB.path(session.namespace), raw, query=query)
    except AlreadyExistsError as error:
        name = raw["metadata"]["name"]
        raise CommandError(
            f"there is a job {name} in namespace {session.namespace} already: choose another --name, or delete it "
            f"(kubectl delete pjob {name} -n {session.namespace})"
        ) from error
