"""Stage Upload: the gate's verdict, then report, model card and model to the output; the manifest last."""

from __future__ import annotations

from kubooth_trainer.checkpoint_claim import require_claim
from kubooth_trainer.claim import Claim
from kubooth_trainer.errors import QualityRejectedError
from kubooth_trainer.publish import Destination, Manifest, publish
from kubooth_trainer.result import Finished, manifest_fields, quality_event, write_pages
from kubooth_trainer.single_file import write_single_file
from kubooth_trainer.stages.setting import Setting

REJECTED = ".kubooth/rejected"  # below the output


def tell_quality(setting: Setting, finished: Finished, destination: Destination, claim: Claim) -> None:
    """Says what was measured. Raises QualityRejectedError where the gate lets nothing be published. Rank 0 alone.

    The report of a rejected result goes beside what is reserved for work in progress; checkpoints stay, so that the
    same job with another gate is only evaluated again.
    """
    config, storage, quality = setting.config, setting.storage, finished.quality
    gate, judgement = config.evaluation.gate, quality.judgement
    if gate is None or judgement is None or judgement.verdict == "Accepted" or gate.action == "Warn":
        if judgement is not None and judgement.verdict == "Rejected":
            setting.reporter.warn(f"evaluation.gate: {judgement.message}")
        setting.reporter.emit(quality_event(quality))
        return
    folder = setting.work / "rejected"
    folder.mkdir(parents=True, exist_ok=True)
    write_pages(finished, folder)
    report = storage.join(destination.uri, f"{REJECTED}/report.html")
    require_claim(claim)  # else it is a successor's place by now
    storage.write_bytes(report, (folder / "report.html").read_bytes())
    setting.reporter.emit(quality_event(quality, report=report))
    raise QualityRejectedError(f"evaluation.gate: {judgement.message}; the report is at {report}")


def upload(setting: Setting, finished: Finished, destination: Destination) -> Manifest:
    """Report, model card and model to the output; the manifest last. Rank 0 alone."""
    reporter = setting.reporter
    folder = setting.work / "output"
    if setting.config.output.format == "SingleFile":
        write_single_file(folder, setting.work / "single-file")
        reporter.moved()
        folder = setting.work / "single-file"
    reporter.begin("Upload", total=0, unit="bytes")
    write_pages(finished, folder)
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    reporter.begin("Upload", total=total, unit="bytes")
    manifest = publish(
        destination,
        folder,
        manifest_fields=manifest_fields(finished),
        on_progress=lambda done, _: reporter.advance("Upload", done),
    )
    reporter.end("Upload")
    return manifest
