"""Status of a job: what was observed, and by whom it is written.

Operator: phase, reason, message, conditions, observedGeneration, startTime, completionTime, attempts, restarts,
attempt, activeSeconds, deviceSeconds, failure, runtimeSnapshot, resolved. Trainer (rank 0, its own field manager,
always its whole set): stages, progress, checkpoint, identifier, className, prior, quality, output, report.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from kubooth_operator.api.fields import Observed
from kubooth_operator.api.scalars import Sentence
from kubooth_trainer.config import StageName

StageState = Literal["Pending", "Running", "Succeeded", "Skipped", "Failed"]
Phase = Literal["Pending", "Suspended", "Starting", "Running", "Succeeded", "Failed"]
ConditionType = Literal["Accepted", "PodsReady", "Succeeded", "Failed", "Suspended", "QualityAccepted"]
Outcome = Literal["Retry", "Disrupted", "Suspended", "Failed", "Succeeded"]
Reason = Annotated[str, Field(max_length=128)]
Short = Annotated[str, Field(max_length=256)]
Location = Annotated[str, Field(max_length=2048)]
Count = Annotated[int, Field(ge=0)]


class Condition(Observed):
    """A Kubernetes condition."""

    type: Annotated[str, Field(max_length=63)] = Field(description="Accepted, PodsReady, Succeeded, Failed, ...")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: Reason = Field(description="Stable CamelCase word for programs.")
    message: Sentence = Field(default="", description="Sentence for people.")
    last_transition_time: datetime = Field(description="When the status last changed.")
    observed_generation: Count | None = Field(default=None, description="Generation of the spec that was judged.")


class StageStatus(Observed):
    """One stage of a job."""

    name: StageName = Field(description="Which stage.")
    state: StageState = Field(description="How far it is.")
    start: datetime | None = Field(default=None, description="When it began.")
    end: datetime | None = Field(default=None, description="When it ended.")
    done: Count | None = Field(default=None, description="How much is done, in `unit`.")
    total: Count | None = Field(default=None, description="How much there is to do, in `unit`.")
    unit: Annotated[str, Field(max_length=32)] | None = Field(
        default=None, description="inputs, images, steps or bytes."
    )
    note: Annotated[str, Field(max_length=1024)] | None = Field(default=None, description="Anything to remark.")


class ProgressStatus(Observed):
    """How training is getting on."""

    step: Count = Field(description="Optimizer steps done.")
    total: Count = Field(description="Optimizer steps in all.")
    percent: Annotated[float, Field(ge=0, le=100)] | None = Field(default=None, description="Share done, in percent.")
    loss: float | None = Field(default=None, description="Mean loss over the last steps.")
    samples_per_second: float | None = Field(default=None, description="Photos and class images together.")
    eta_seconds: Count | None = Field(default=None, description="Time left, in seconds.")
    updated_at: datetime | None = Field(default=None, description="When this was written.")
    summary: Annotated[str, Field(max_length=64)] | None = Field(default=None, description='As in "640/800 80%".')
    eta: Annotated[str, Field(max_length=32)] | None = Field(default=None, description='As in "3m10s".')


class CheckpointStatus(Observed):
    """The newest whole checkpoint."""

    uri: Location = Field(description="Where it is.")
    step: Count = Field(description="Steps it holds.")
    time: datetime | None = Field(default=None, description="When it was whole.")


class PriorStatus(Observed):
    """Where the class images came from."""

    cache_key: Annotated[str, Field(max_length=128)] | None = Field(default=None, description="Key in the cache.")
    source: Literal["Hit", "Partial", "Generated", "Provided"] = Field(description="Cached, generated or given.")
    images: Count | None = Field(default=None, description="How many.")
    seconds_saved: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="Time that the job's devices would have taken for those from the cache, in seconds."
    )


class FigureStatus(Observed):
    """One figure of the result, over all its prompts."""

    name: Annotated[str, Field(max_length=32)] = Field(
        description="As in spec.evaluation.metrics; ClassDiv is Div of the prompts without the identifier."
    )
    before: float | None = Field(default=None, description="Of the base model's pictures.")
    after: float | None = Field(default=None, description="Of the personalized model's pictures.")


class QualityStatus(Observed):
    """What was measured of the result."""

    verdict: Literal["Accepted", "Rejected", "NotMeasured"] | None = Field(
        default=None, description="What spec.evaluation.gate says. Absent without thresholds."
    )
    message: Annotated[str, Field(max_length=1024)] | None = Field(
        default=None, description="Thresholds and figures, or why there are none."
    )
    figures: Annotated[tuple[FigureStatus, ...], Field(max_length=16)] | None = Field(
        default=None, description="The figures.", json_schema_extra={"x-kubernetes-list-type": "atomic"}
    )


class OutputStatus(Observed):
    """The result."""

    uri: Location = Field(description="Where it is.")
    manifest_digest: Annotated[str, Field(max_length=80)] | None = Field(
        default=None, description="SHA-256 of manifest.json, in hexadecimal."
    )
    bytes: Count | None = Field(default=None, description="Size of all files, in bytes.")


class ReportStatus(Observed):
    """The page to look at."""

    uri: Location = Field(description="Where it is.")


class FailureStatus(Observed):
    """Why the job, or its last attempt, failed."""

    reason: Reason = Field(description="Stable CamelCase word, such as BadSubject or OutOfMemory.")
    message: Sentence = Field(default="", description="What happened and what to do.")
    pod: Short | None = Field(default=None, description="Pod that failed first.")
    exit_code: int | None = Field(default=None, description="Its exit code.")
    log: Annotated[tuple[Annotated[str, Field(max_length=1024)], ...], Field(max_length=50)] | None = Field(
        default=None, description="Its last log lines."
    )


class AttemptStatus(Observed):
    """The newest attempt: what the operator has to remember of it from one pass to the next."""

    number: Count = Field(description="Which attempt; the same as `attempts`.")
    start_time: datetime | None = Field(
        default=None, description="Since when its pods may start. Absent while a queue holds it back."
    )
    ready_time: datetime | None = Field(default=None, description="When all its pods were ready for the first time.")
    end_time: datetime | None = Field(default=None, description="When it had ended, or was ended.")
    gone_time: datetime | None = Field(
        default=None, description="When none of its pods ran any more: nothing of it holds devices or writes since."
    )
    outcome: Outcome | None = Field(
        default=None,
        description="What its end leads to: Retry and Disrupted to another attempt (only the first counts against "
        "maxRestarts), Suspended to a pause, Failed and Succeeded to the end of the job.",
    )
    early_disruptions: Count | None = Field(
        default=None,
        description="How many attempts in a row, this one included, were disrupted before they had saved a checkpoint "
        "of their own. From the second on there is a pause before the next one.",
    )
    first_step: Count | None = Field(
        default=None, description="Steps that the newest checkpoint held when it began. Absent where there was none."
    )
    job_deletions: Count | None = Field(
        default=None, description="How often its batch Job was deleted by others while it ran. The second time ends it."
    )
    retry_time: datetime | None = Field(default=None, description="Before this time the next one does not begin.")


class RuntimeSnapshot(Observed):
    """A runtime as it was when the job was accepted."""

    name: Annotated[str, Field(max_length=253)] = Field(description="Its name.")
    uid: Annotated[str, Field(max_length=64)] | None = Field(default=None, description="Its UID.")
    generation: Count | None = Field(default=None, description="Its generation.")
    spec: dict[str, Any] = Field(description="Its spec.")


class JobStatus(Observed):
    """What was observed of a job."""

    phase: Phase | None = Field(default=None, description="Where the job stands.")
    reason: Reason | None = Field(default=None, description="Why it stands there, as a stable CamelCase word.")
    message: Sentence | None = Field(default=None, description="Why it stands there, as a sentence.")
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16)] | None = Field(
        default=None,
        description="Accepted, PodsReady, Succeeded, Failed, Suspended, QualityAccepted.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    observed_generation: Count | None = Field(default=None, description="Generation of the spec that was acted upon.")
    identifier: Annotated[str, Field(max_length=64)] | None = Field(
        default=None, description="The word that stands for the subject."
    )
    class_name: Annotated[str, Field(max_length=64)] | None = Field(
        default=None, description="The class noun that is trained with; chosen where spec.subject.className is Auto."
    )
    stages: Annotated[tuple[StageStatus, ...], Field(max_length=6)] | None = Field(
        default=None,
        description="One row for each stage.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    progress: ProgressStatus | None = Field(default=None, description="How training is getting on.")
    checkpoint: CheckpointStatus | None = Field(default=None, description="The newest whole checkpoint.")
    prior: PriorStatus | None = Field(default=None, description="Where the class images came from.")
    quality: QualityStatus | None = Field(default=None, description="What was measured of the result.")
    output: OutputStatus | None = Field(default=None, description="The result.")
    report: ReportStatus | None = Field(default=None, description="The page to look at.")
    attempts: Count | None = Field(default=None, description="Attempts started, resumed ones included.")
    restarts: Count | None = Field(default=None, description="Restarts that count against maxRestarts.")
    attempt: AttemptStatus | None = Field(default=None, description="The newest attempt, as the operator follows it.")
    start_time: datetime | None = Field(default=None, description="When the first attempt was started.")
    completion_time: datetime | None = Field(default=None, description="When the job had succeeded or failed.")
    active_seconds: Annotated[float, Field(ge=0)] | None = Field(
        default=None,
        description="Time that ended attempts ran, in seconds; with the present one it is held against "
        "activeDeadlineSeconds. Time in a queue, in suspension and between attempts does not count.",
    )
    device_seconds: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="Time that ended attempts held devices, summed over devices, in seconds."
    )
    failure: FailureStatus | None = Field(default=None, description="Why the job, or its last attempt, failed.")
    resolved: dict[str, Any] | None = Field(
        default=None, description="The spec with every value settled: job, then runtime, then built-in."
    )
    runtime_snapshot: RuntimeSnapshot | None = Field(
        default=None, description="The runtime as it was when the job was accepted; later edits change nothing."
    )
