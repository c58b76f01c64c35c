"""What the trainer's configuration promises from one release to the next, while jobs run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError, create_model

from kubooth_trainer.config import Frozen, TrainConfig, load_config

FIRST = Path(__file__).parent / "config_of_version_1.json"
DIGEST_OF_FIRST = "c09b412da8cf0f2989911f51903305f4638012c224e98185337b1b008d8944cc"
DECIDES = {"", "model", "subject", "prior", "prior.sampler", "training", "training.ema", "evaluation.best_checkpoint"}
"""Groups whose fields decide the trained weights, unless they are named as exceptions."""


def test_a_configuration_of_the_first_release_is_read_and_keeps_its_digest() -> None:
    """Do not change the file or the digest: jobs that run have them in their checkpoints and outputs.

    Where it breaks, a change would make every running job train from the start after an upgrade, or fail with
    OutputExists. A field that is not given here needs a declared default that changes nothing (see the docstring of
    `kubooth_trainer.config`); a field that went has to be read still; and a field that does not decide the weights
    belongs into the exclusions of `TrainConfig.digest`. Only a new `CONFIG_VERSION`, which ends what runs in so many
    words, begins with a new file.
    """
    config = load_config(FIRST)
    assert config.digest() == DIGEST_OF_FIRST
    assert config.model_dump(mode="json") == json.loads(FIRST.read_text()), "see the docstring: add nothing to the file"


def parts(part: type[BaseModel], path: str = "") -> Iterator[str]:
    """The paths of the groups of a configuration; the first is the configuration itself."""
    yield path
    for name, field in part.model_fields.items():
        inner = [each for each in (field.annotation, *_arguments(field.annotation)) if _is_part(each)]
        for each in inner:
            yield from parts(each, f"{path}.{name}".removeprefix("."))


def _arguments(annotation: Any) -> tuple[Any, ...]:
    return getattr(annotation, "__args__", ())


def _is_part(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Frozen)


def later(part: type[BaseModel], path: str) -> type[BaseModel]:
    """The model as a later release may have it: with one more field in the group at `path`."""
    name, _, rest = path.partition(".")
    if not name:
        return create_model(f"Later{part.__name__}", __base__=part, newly_invented=(float, 0.0))
    annotation = part.model_fields[name].annotation
    inner = next(each for each in (annotation, *_arguments(annotation)) if _is_part(each))
    changed: Any = later(inner, rest)
    return create_model(f"Later{part.__name__}", __base__=part, **{name: (changed | None, ...)})  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("path", sorted(set(parts(TrainConfig))), ids=lambda path: path or "top")
def test_a_field_of_a_later_release_changes_nothing_where_it_is_not_used(path: str) -> None:
    config = load_config(FIRST)
    upgraded: Any = later(TrainConfig, path).model_validate(json.loads(FIRST.read_text()))
    assert upgraded.model_dump() != config.model_dump(), "a result tells every value"
    assert upgraded.digest() == config.digest()
    assert upgraded.without_defaults() == config.without_defaults()
    assert TrainConfig.model_validate(upgraded.without_defaults()) == config, "an older trainer reads it"

    used = json.loads(FIRST.read_text())
    group = used
    for name in path.split(".") if path else ():
        group = group[name]
    group["newly_invented"] = 0.5
    in_use: Any = later(TrainConfig, path).model_validate(used)
    assert type(in_use).model_validate(in_use.without_defaults()) == in_use
    with pytest.raises(ValidationError, match="newly_invented"):
        TrainConfig.model_validate(in_use.without_defaults())
    assert (in_use.digest() != config.digest()) is (path in DECIDES)


@pytest.mark.parametrize("model_cache", [None, {"path": "/models", "max_bytes": 1}], ids=["its-default", "given"])
def test_what_has_a_default_today_comes_back_as_it_was(model_cache: dict[str, Any] | None) -> None:
    values = {**json.loads(FIRST.read_text()), "model_cache": model_cache}
    config = TrainConfig.model_validate(values)
    assert ("model_cache" in config.without_defaults()) is (model_cache is not None)
    assert TrainConfig.model_validate(config.without_defaults()) == config
    assert config.model_dump(mode="json") == values
