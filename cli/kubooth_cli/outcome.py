"""How a run ended: the exit code `kubooth run` gives, and the words that go with it. Pure."""

from __future__ import annotations

import shlex
import signal
from dataclasses import dataclass

from kubooth_cli import format as fmt
from kubooth_cli.presenter import Run
from kubooth_cli.state import RunState
from kubooth_cli.supervise import Ended
from kubooth_trainer.errors import ExitCode

LOG_LINES = 12
IDENTIFIER = "{identifier}"


@dataclass(frozen=True)
class Outcome:
    """Everything that the last words of a run depend on."""

    run: Run
    state: RunState
    ended: Ended
    seconds: float  # of this command, resumed work not counted
    log_tail: tuple[str, ...]

    @property
    def code(self) -> ExitCode:
        """The launcher's code where it is a documented one; see `kubooth_trainer.errors`."""
        ended, failed = self.ended, self.state.failed
        stopped = ended.stopped_by is not None
        stop_code = ExitCode.INTERRUPTED if ended.stopped_by is signal.SIGINT else ExitCode.TERMINATED
        if ended.returncode == ExitCode.OK:
            if self.state.result is not None:
                return ExitCode.OK
            return stop_code if stopped else ExitCode.CRASHED
        if stopped and (ended.at_once or failed is None or failed.reason == "Stopped"):
            return stop_code
        if ended.returncode in set(ExitCode):
            return ExitCode(ended.returncode)
        return ExitCode.CRASHED


def success(outcome: Outcome) -> list[str]:
    """Where the results are, and the line that makes the first pictures with them."""
    result, run = outcome.state.result, outcome.run
    assert result is not None
    model = fmt.plain_path(result.model)
    heading = f"{run.config.job.name} is ready in {fmt.duration(outcome.seconds)}"
    rows = [
        ("model", f"{model}  ({fmt.size(result.bytes)})"),
        ("report", fmt.plain_path(result.report)),
        ("identifier", f"{result.identifier} {result.class_name or run.config.subject.class_name}"),
    ]
    figures = outcome.state.quality.figures if outcome.state.quality else []
    shown = [
        f"{figure.name} {figure.before:.2f} > {figure.after:.2f}"
        for figure in figures
        if figure.before is not None and figure.after is not None
    ]
    if shown:
        rows.append(("figures", ", ".join(shown)))
    if outcome.state.warnings:
        rows.append(("warnings", f"{len(outcome.state.warnings)}, see above"))
    return [
        heading,
        *(f"  {name:<12}{value}" for name, value in rows),
        "",
        f"  kubooth sample {shlex.quote(model)} {shlex.quote(_first_prompt(run))} -n 4 -o grid.png",
    ]


def failure(outcome: Outcome, command: str) -> list[str]:
    """What went wrong in one sentence, where to read more, what to do next. `command`: what to run again."""
    if outcome.code in (ExitCode.INTERRUPTED, ExitCode.TERMINATED):
        return [_stopped(outcome), f"To go on from there: {command}"]
    lines = [f"error: {_sentence(outcome)}"]
    if outcome.code is ExitCode.CRASHED and outcome.log_tail:
        lines += ["", f"The last lines of {outcome.run.log_path}:"]
        lines += [*(f"  {line}" for line in outcome.log_tail), ""]
    else:
        lines.append(f"The whole log: {outcome.run.log_path}")
    return [*lines, _advice(outcome, command)]


def _sentence(outcome: Outcome) -> str:
    failed = outcome.state.failed
    if failed is not None:
        return f"{failed.reason}: {failed.message}"
    status = outcome.ended.returncode
    if status < 0:
        name = _signal_name(-status)
        why = " (often the system, short of memory)" if name == "SIGKILL" else ""
        return f"TrainerCrashed: the trainer was ended by {name}{why}"
    if status == ExitCode.OK:
        return "TrainerCrashed: the trainer ended without a result"
    return f"TrainerCrashed: the trainer ended with code {status} and did not say why"


def _advice(outcome: Outcome, command: str) -> str:
    saved = outcome.state.checkpoint
    from_where = f"from step {saved.step}" if saved else "from the last checkpoint, if there is one"
    match outcome.code:
        case ExitCode.FIX_AND_RESUBMIT:
            return "A retry cannot mend this: fix the job or its inputs, then run it again."
        case ExitCode.RETRY:
            return f"This may pass: try again later, and training resumes {from_where}: {command}"
        case _:
            return f"Try again, and training resumes {from_where}: {command}"


def _stopped(outcome: Outcome) -> str:
    saved = outcome.state.checkpoint
    if outcome.ended.at_once:
        return "Stopped at once." + (f" The last checkpoint is of step {saved.step}." if saved else "")
    return f"Stopped; saved at step {saved.step}." if saved else "Stopped; what was finished is kept."


def _first_prompt(run: Run) -> str:
    prompts = [prompt for prompt in run.config.evaluation.prompts if IDENTIFIER in prompt]
    return prompts[0] if prompts else run.config.subject.prompt_template


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
