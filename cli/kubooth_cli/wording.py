"""Events in words: what stands beside a bar and what a plain line says. Pure; shared by the presenters."""

from __future__ import annotations

from kubooth_cli import format as fmt
from kubooth_cli.state import StageState
from kubooth_trainer.progress import ProgressEvent, StageEvent

SILENCE_SECONDS = 3.0  # after which a stage that has not moved shows how long it is at work


def stage_line(event: StageEvent) -> str:
    """One stage's change of state: `Prior: done in 48s (200 images)`."""
    count = fmt.counted(event.done, event.total, event.unit)
    match event.state:
        case "Running":
            what = f"started ({count})" if count else "started"
        case "Succeeded":
            took = _took(event)
            what = f"done {took}" if took else "done"
            what += f" ({count})" if count else ""
        case _:
            what = event.state.lower()
    return f"{event.stage}: {what}" + (f", {event.note}" if event.note else "")


def training_parts(event: ProgressEvent) -> list[str]:
    """`loss 0.0812`, `11.3 images/s`, `3m10s left`: most wanted first, for where room is short."""
    parts = [fmt.loss(event.loss)]
    if event.samples_per_second > 0:
        parts.append(fmt.rate(event.samples_per_second, "images"))
    if event.step < event.total:
        parts.append(f"{fmt.duration(event.eta_seconds)} left")
    return parts


def stage_parts(stage: StageState, now: float) -> list[str]:
    """What stands beside a stage's bar, most wanted first. `now` is monotonic seconds."""
    event = stage.event
    if event is None:
        return []
    match event.state:
        case "Running" if event.total:
            parts = [fmt.share(event.done, event.total, event.unit)]
            speed = stage.speed(now)
            if speed:
                parts.append(fmt.rate(speed, event.unit or "items"))
                parts.append(f"{fmt.duration((event.total - event.done) / speed)} left")
            elif now - stage.first_seen >= SILENCE_SECONDS:
                parts.append(f"for {fmt.duration(now - stage.first_seen)}")
            return [*parts, event.note]
        case "Running":
            return [f"for {fmt.duration(now - stage.first_seen)}", event.note]
        case "Succeeded":
            count = fmt.counted(event.done, event.total, event.unit)
            return [" ".join(part for part in (count, _took(event)) if part), event.note]
        case "Skipped":
            return [event.note or "skipped"]
        case "Failed":
            return ["failed", event.note]
        case _:
            return [event.note]


def train_parts(stage: StageState, progress: ProgressEvent, saved: int | None, now: float) -> list[str]:
    """The same for the Train stage once it has reported steps. `saved`: the newest checkpoint's step."""
    event = stage.event
    if event is None or event.state not in ("Running", "Succeeded", "Failed"):
        return stage_parts(stage, now)
    if event.state == "Succeeded":
        first, *rest = stage_parts(stage, now)
        return [first, fmt.loss(progress.loss), *rest]
    parts = [fmt.share(progress.step, progress.total)]
    if event.state == "Failed":
        return ["failed", *parts, fmt.loss(progress.loss), event.note]
    kept = f"saved at {saved}" if saved is not None else ""
    return [*parts, *training_parts(progress), kept, event.note]


def _took(event: StageEvent) -> str:
    if event.start is None or event.end is None:
        return ""
    return f"in {fmt.duration(event.end - event.start)}"
