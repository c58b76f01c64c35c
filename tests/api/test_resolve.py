"""From job and runtime to the trainer's configuration: precedence, limits, locations, and what is not supported yet."""

# ruff: noqa: E501 - tables have a case on each line

from __future__ import annotations

from typing import Any, get_args

import pytest
from api.bad_specs import GONE, changed, job, runtime

from kubooth_operator.api import PersonalizationJob, SpecError, local_runtime
from kubooth_operator.api.fields import facts_of
from kubooth_operator.api.load import parse
from kubooth_operator.api.prompt_packs import CLASS_PROMPT, PromptPack, prompts_of
from kubooth_operator.api.runtime import PersonalizationRuntime
from kubooth_operator.api.training import TrainingSpec
from kubooth_operator.resolve import Target, resolve
from kubooth_operator.settle import settle
from kubooth_trainer.config import TrainConfig

EVERYWHERE = {"limits": {"readPrefixes": ["s3://", "file:///"], "writePrefixes": ["s3://", "file:///"]}}


def target(**fields: Any) -> Target:
    known = {
        "workdir": "/work",
        "checkpoints_uri": "file:///work/checkpoints",
        "base_uri": "file:///home/ann/jobs/",
        "devices": None,
        "output": None,
        "attempt": 0,
        "namespace": "team-a",
    }
    return Target(**{**known, **fields})


def resolved(
    manifest: dict[str, Any], runtime_spec: dict[str, Any] | None = None, where: Target | None = None
) -> TrainConfig:
    the_job = parse(manifest, PersonalizationJob)
    the_runtime = parse(
        {
            "apiVersion": "kubooth.io/v1alpha1",
            "kind": "PersonalizationRuntime",
            "metadata": {"name": "default"},
            "spec": runtime_spec if runtime_spec is not None else EVERYWHERE,
        },
        PersonalizationRuntime,
    )
    return resolve(the_job, the_runtime, where or target())


def refused(
    manifest: dict[str, Any], runtime_spec: dict[str, Any] | None = None, where: Target | None = None
) -> list[str]:
    with pytest.raises(SpecError) as caught:
        resolved(manifest, runtime_spec, where)
    return [str(error) for error in caught.value.errors]


# Precedence


PRECEDENCE = [
    ("built-in", {}, {}, 800),
    ("runtime-over-built-in", {}, {"training": {"steps": 300}}, 300),
    ("job-over-runtime", {"training__steps": 50}, {"training": {"steps": 300}}, 50),
]


@pytest.mark.parametrize(("fields", "defaults", "steps"), [c[1:] for c in PRECEDENCE], ids=[c[0] for c in PRECEDENCE])
def test_job_over_runtime_over_built_in(fields: dict[str, Any], defaults: dict[str, Any], steps: int) -> None:
    assert resolved(job(**fields), {"defaults": defaults}).training.steps == steps


def test_groups_are_merged_field_by_field() -> None:
    config = resolved(
        job(prior__sampler={"steps": 10}),
        {"defaults": {"prior": {"images": 50, "sampler": {"name": "DDIM", "steps": 40}}}},
    )
    sampler = config.prior.sampler
    assert (config.prior.images, sampler.name, sampler.steps, sampler.guidance_scale) == (50, "DDIM", 10, 7.5)


def test_a_false_and_a_zero_of_the_job_are_choices() -> None:
    config = resolved(
        job(prior__enabled=False, training__snrGamma=0),
        {"defaults": {"training": {"snrGamma": 5}, "prior": {"enabled": True}}},
    )
    assert config.prior.enabled is False
    assert config.training.snr_gamma is None


def test_every_setting_with_a_built_in_value_is_settled_to_it() -> None:
    training = resolved(job()).training.model_dump()
    for name, field in TrainingSpec.model_fields.items():
        builtin = facts_of(field).builtin
        if builtin is not None and name != "snr_gamma":
            assert training[name] == builtin, name


SPECIAL = [
    ("text-encoder-follows-the-built-in-rate", {}, {}, "text_encoder_learning_rate", 5e-6),
    ("text-encoder-follows-the-job", {"training__learningRate": 1e-4}, {}, "text_encoder_learning_rate", 1e-4),
    ("text-encoder-has-its-own", {"training__textEncoderLearningRate": 1e-6}, {}, "text_encoder_learning_rate", 1e-6),
    ("text-encoder-of-the-runtime", {}, {"training": {"textEncoderLearningRate": 2e-6}}, "text_encoder_learning_rate", 2e-6),
    ("no-ema", {}, {}, "ema", None),
    ("ema", {"training__ema": {"enabled": True}}, {}, "ema", {"decay": 0.999}),
    ("ema-switched-off", {"training__ema": {"enabled": False}}, {"training": {"ema": {"enabled": True}}}, "ema", None),
    ("min-snr", {"training__snrGamma": 5}, {}, "snr_gamma", 5.0),
    ("resolution-of-the-model", {}, {}, "resolution", None),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "defaults", "name", "value"), [c[1:] for c in SPECIAL], ids=[c[0] for c in SPECIAL])
def test_values_that_depend_on_others(fields: dict[str, Any], defaults: dict[str, Any], name: str, value: Any) -> None:
    assert resolved(job(**fields), {"defaults": defaults}).training.model_dump()[name] == value


def test_an_empty_identifier_lets_the_trainer_choose() -> None:
    assert resolved(job(subject__identifier="")).subject.identifier is None
    assert resolved(job(subject__identifier="sks")).subject.identifier == "sks"


def test_prompts_of_the_job_shut_out_the_runtimes_pack() -> None:
    defaults = {"defaults": {"evaluation": {"promptPack": "Art"}}}
    config = resolved(job(evaluation__prompts=["a {class}"]), defaults)
    assert config.evaluation.prompts == ("a {class}",)
    assert resolved(job(), defaults).evaluation.prompts == prompts_of("Art")


def test_a_combination_that_only_the_merge_makes_is_refused_with_the_runtimes_name() -> None:
    message = (
        "spec.training.warmupSteps: must not be more than steps (with the defaults of runtime default and the built-in "
        "values)"
    )
    assert refused(job(training__steps=50), {"defaults": {"training": {"warmupSteps": 100}}}) == [message]
    assert refused(job(training__warmupSteps=801)) == [message]


def test_settle_gives_a_spec_that_settles_to_itself() -> None:
    the_job, the_runtime = parse(job(), PersonalizationJob), local_runtime({})
    settled = settle(the_job, the_runtime)
    again = settle(the_job.model_copy(update={"spec": settled}), the_runtime)
    assert settled == again
    assert settled.run_policy.max_restarts == 3


# Identity, devices, storage


def test_identity_and_storage_come_from_metadata_target_and_runtime() -> None:
    manifest = job()
    manifest["metadata"]["uid"] = "1-2-3"
    storage = {"endpoint": "http://s3.example:9000", "externalEndpoint": "https://x.example", "region": "eu"}
    config = resolved(manifest, {"storage": storage}, target(attempt=3))
    assert config.job.model_dump() == {"name": "rex", "namespace": "team-a", "uid": "1-2-3", "attempt": 3}
    assert config.storage.model_dump() == {"endpoint": "http://s3.example:9000", "region": "eu"}
    assert (config.workdir, config.checkpoints.uri) == ("/work", "file:///work/checkpoints")


PRIOR_CACHES = [
    ("none", {}, None, None),
    ("own", {}, "file:///home/ann/.cache/kubooth/prior", "file:///home/ann/.cache/kubooth/prior"),
    ("per-namespace", {"uri": "s3://cache/priors"}, "file:///x", "s3://cache/priors/namespaces/team-a/"),
    ("trusted", {"uri": "s3://cache/priors/", "trusted": True}, None, "s3://cache/priors/shared/"),
]


@pytest.mark.parametrize(("cache", "own", "uri"), [c[1:] for c in PRIOR_CACHES], ids=[c[0] for c in PRIOR_CACHES])
def test_a_runtimes_prior_cache_has_a_part_for_each_namespace(cache: Any, own: str | None, uri: str | None) -> None:
    config = resolved(job(), {"priorCache": cache} if cache else {}, target(prior_cache=own))
    assert config.prior.cache == uri
    assert config.digest() == resolved(job()).digest()


TRACKERS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("none", {}, {}),
    ("files", {"tensorboard": "/logs"}, {"tensorboard": "/logs"}),
    (
        "mlflow",
        {"mlflow": {"uri": "http://mlflow:5000"}},
        {"mlflow": {"uri": "http://mlflow:5000", "experiment": "kubooth"}},
    ),
    ("project-alone", {"wandb": {"project": "pets"}}, {"wandb": {"project": "pets", "entity": None, "url": None}}),
]


@pytest.mark.parametrize(("trackers", "expected"), [c[1:] for c in TRACKERS], ids=[c[0] for c in TRACKERS])
def test_the_runtimes_trackers_know_the_job_by_its_name(trackers: dict[str, Any], expected: dict[str, Any]) -> None:
    tracking = resolved(job(), {"tracking": {**trackers, "credentialsSecret": "keys"}}).tracking
    off = {"tensorboard": None, "mlflow": None, "wandb": None}
    assert tracking.model_dump() == {"name": "team-a/rex", **off, **expected}
    assert resolved(job(tracking__name="my dog"), {"tracking": trackers}).tracking.name == "my dog"


MODEL_CACHES = [
    ("none", None, None, None),
    ("in-a-pod", {"claimName": "models"}, "/mounted", ("/mounted", 200 * 2**30)),
    ("in-a-pod-of-a-node", {"hostPath": "/models", "maxSize": "1.5Ti"}, "/mounted", ("/mounted", 3 * 2**39)),
    ("on-a-machine", {"hostPath": "/models", "maxSize": 5000}, None, ("/models", 5000)),
    ("on-a-machine-without-claims", {"claimName": "models"}, None, None),
]


@pytest.mark.parametrize(("cache", "mounted", "found"), [c[1:] for c in MODEL_CACHES], ids=[c[0] for c in MODEL_CACHES])
def test_where_models_are_kept(cache: Any, mounted: str | None, found: tuple[str, int] | None) -> None:
    config = resolved(job(), {"modelCache": cache} if cache else {}, target(model_cache=mounted))
    kept = config.model_cache
    assert (kept and (kept.path, kept.max_bytes)) == found
    assert config.digest() == resolved(job()).digest()


def test_deadlines_are_the_jobs_then_the_runtimes_then_the_built_in_ones() -> None:
    defaults = {"defaults": {"runPolicy": {"progressDeadlineSeconds": 120, "startupDeadlineSeconds": 240}}}
    chosen = job(runPolicy__progressDeadlineSeconds=60)
    for manifest, spec, expected in (
        (job(), {}, (1800, 1800)),
        (job(), defaults, (120, 240)),
        (chosen, defaults, (60, 240)),
    ):
        deadlines = resolved(manifest, spec).deadlines
        assert (deadlines.stall_seconds, deadlines.rendezvous_seconds) == expected
    assert resolved(chosen).digest() == resolved(job()).digest()


def test_local_devices_take_the_place_of_parallelism() -> None:
    manifest = job(parallelism__nodes=4, parallelism__devicesPerNode=8, training__batchSize=6)
    config = resolved(manifest, where=target(devices=3))
    assert (config.parallelism.nodes, config.parallelism.devices_per_node, config.world_size) == (1, 3, 3)


def test_another_output_takes_the_place_of_the_jobs() -> None:
    assert resolved(job(), where=target(output="file:///tmp/out")).output.uri == "file:///tmp/out"


DIVISION = [
    ("devices", {"training__batchSize": 4}, 3, "4 cannot be shared out evenly over 3 devices: use a multiple of 3"),
    ("built-in-batch", {}, 2, "1 cannot be shared out evenly over 2 devices: use a multiple of 2"),
    (
        "accumulation",
        {"training__batchSize": 8, "training__gradientAccumulation": 4},
        4,
        "8 cannot be shared out evenly over 4 devices x gradientAccumulation 4 = 16: use a multiple of 16",
    ),
]


@pytest.mark.parametrize(("fields", "devices", "message"), [c[1:] for c in DIVISION], ids=[c[0] for c in DIVISION])
def test_a_batch_that_cannot_be_shared_out_is_refused(fields: dict[str, Any], devices: int, message: str) -> None:
    assert refused(job(**fields), where=target(devices=devices)) == [f"spec.training.batchSize: {message}"]


# Catalogue


def test_a_model_of_the_catalogue_needs_no_read_prefix() -> None:
    manifest = job(model={"name": "small-world"})
    models = [{"name": "small-world", "uri": "file:///models/small-world"}]
    config = resolved(manifest, {"models": models})
    assert config.model.model_dump() == {"uri": "file:///models/small-world", "name": "small-world"}


CATALOGUE = [
    ("near-miss", ["sd15", "small-world"], "smal-world", " (did you mean small-world?); known: small-world, sd15"),
    ("unlike", ["sd15", "small-world"], "xl", "; known: sd15, small-world"),
    ("empty", [], "xl", "; known: none"),
]


@pytest.mark.parametrize(("known", "name", "rest"), [c[1:] for c in CATALOGUE], ids=[c[0] for c in CATALOGUE])
def test_an_unknown_model_names_the_known_ones_closest_first(known: list[str], name: str, rest: str) -> None:
    models = [{"name": each, "uri": "s3://models/x/"} for each in known]
    assert refused(job(model={"name": name}), {"models": models}) == [
        f"spec.model.name: runtime default has no model {name}{rest}"
    ]


# Limits


LIMITS = [
    ("nodes", {"parallelism__nodes": 3, "training__batchSize": 3}, {"limits": {"nodes": 2}},
     "spec.parallelism.nodes: must be at most 2 by the limits of runtime default, got 3"),
    ("devices", {"parallelism": {"nodes": 2, "devicesPerNode": 4}, "training__batchSize": 8}, {"limits": {"devices": 4}},
     "spec.parallelism.devicesPerNode: runtime default allows at most 4 devices over all nodes, got 8"),
    ("per-node", {"parallelism__devicesPerNode": 4, "training__batchSize": 8}, {"accelerator": {"perNode": 2}},
     "spec.parallelism.devicesPerNode: must be at most 2, the devices of a node of runtime default, got 4"),
    ("steps", {"training__steps": 900}, {"limits": {"steps": 500}},
     "spec.training.steps: must be at most 500 by the limits of runtime default, got 900"),
    ("built-in-steps", {}, {"limits": {"steps": 500}},
     "spec.training.steps: must be at most 500 by the limits of runtime default, got 800"),
    ("consent", {}, {"limits": {"requireConsent": True}},
     "spec.subject.consent: must be true: runtime default requires a statement that every person shown agreed"),
    ("consent-denied", {"subject__consent": False}, {"limits": {"requireConsent": True}},
     "spec.subject.consent: must be true: runtime default requires a statement that every person shown agreed"),
    ("priority", {"priorityClassName": "urgent"}, {"limits": {"priorityClasses": ["low", "normal"]}},
     "spec.priorityClassName: runtime default allows: low, normal; got urgent"),
    ("namespace", {}, {"allowedNamespaces": ["team-b"]},
     "spec.runtimeRef.name: runtime default does not serve namespace team-a"),
    ("read-photos", {}, {"limits": {"readPrefixes": ["s3://models/", "s3://photos/{namespace}/"]}},
     "spec.subject.images: runtime default lets jobs read from s3://models/, s3://photos/team-a/ only, "
     "got s3://photos/rex/"),
    ("read-model", {}, {"limits": {"readPrefixes": ["s3://photos/"]}},
     "spec.model.uri: runtime default lets jobs read from s3://photos/ only, got s3://models/stable-diffusion-v1-5/"),
    ("read-prior", {"prior__uri": "s3://other/"}, {"limits": {"readPrefixes": ["s3://photos/", "s3://models/"]}},
     "spec.prior.uri: runtime default lets jobs read from s3://photos/, s3://models/ only, got s3://other/"),
    ("write", {}, {"limits": {"writePrefixes": ["s3://models/personalized/{namespace}/"]}},
     "spec.output.uri: runtime default lets jobs write to s3://models/personalized/team-a/ only, "
     "got s3://models/personalized/rex/"),
    ("write-nowhere", {}, {"limits": {"writePrefixes": []}},
     "spec.output.uri: runtime default lets jobs write to nowhere only, got s3://models/personalized/rex/"),
    ("files-are-off-by-default", {"subject__images": "file:photos/"}, {},
     "spec.subject.images: runtime default lets jobs read from s3:// only, got file:///home/ann/jobs/photos/"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "spec", "message"), [c[1:] for c in LIMITS], ids=[c[0] for c in LIMITS])
def test_limits_of_the_runtime(fields: dict[str, Any], spec: dict[str, Any], message: str) -> None:
    assert refused(job(**fields), spec) == [message]


def test_labels_that_the_runtime_requires() -> None:
    required = {"limits": {"requiredLabels": ["example.com/team", "cost-centre"]}}
    assert refused(changed(job(), {"metadata.labels": {"example.com/team": "", "other": "x"}}), required) == [
        "metadata.labels: must have example.com/team, with a value: runtime default requires it",
        "metadata.labels: must have cost-centre, with a value: runtime default requires it",
    ]
    labelled = changed(job(), {"metadata.labels": {"example.com/team": "vision", "cost-centre": "42"}})
    assert resolved(labelled, required).job.name == "rex"


def test_the_limits_that_the_good_job_keeps_let_it_pass() -> None:
    limits = {"nodes": 1, "devices": 1, "steps": 800, "priorityClasses": ["low"], "requireConsent": True,
              "readPrefixes": ["s3://photos/", "s3://models"], "writePrefixes": ["s3://models/personalized"]}  # fmt: skip
    spec = {"limits": limits, "allowedNamespaces": ["team-a"], "accelerator": {"perNode": 1}}
    assert resolved(job(priorityClassName="low", subject__consent=True), spec).job.name == "rex"


def test_everything_that_is_wrong_is_said_at_once() -> None:
    manifest = job(
        method="LoRA", training__steps=900, training__batchSize=3, subject__images="file:photos/", model={"name": "x"}
    )
    paths = [error.partition(":")[0] for error in refused(manifest, {"limits": {"steps": 5}}, target(devices=2))]
    assert paths == [
        "spec.method",
        "spec.training.steps",
        "spec.training.batchSize",
        "spec.subject.images",
        "spec.model.name",
    ]


REFUSALS = [
    ("limit", {}, {"limits": {"steps": 500}}, "LimitExceeded"),
    ("nodes", {"parallelism__nodes": 3, "training__batchSize": 3}, {"limits": {"nodes": 2}}, "LimitExceeded"),
    ("consent", {}, {"limits": {"requireConsent": True}}, "ConsentRequired"),
    ("label", {}, {"limits": {"requiredLabels": ["team"]}}, "LabelRequired"),
    ("priority", {"priorityClassName": "urgent"}, {"limits": {"priorityClasses": []}}, "PriorityClassNotAllowed"),
    ("namespace", {}, {"allowedNamespaces": ["team-b"]}, "NamespaceNotAllowed"),
    ("location", {}, {"limits": {"readPrefixes": []}}, "LocationNotAllowed"),
    ("model", {"model": {"name": "x"}}, {}, "ModelNotFound"),
    ("feature", {"method": "LoRA"}, {}, "UnsupportedFeature"),
    ("merge", {"training__warmupSteps": 801}, {}, "InvalidSpec"),
    ("division", {"training__batchSize": 3, "parallelism__nodes": 2}, {}, "InvalidSpec"),
]


@pytest.mark.parametrize(("fields", "spec", "refusal"), [c[1:] for c in REFUSALS], ids=[c[0] for c in REFUSALS])
def test_a_refusal_has_a_stable_reason(fields: dict[str, Any], spec: dict[str, Any], refusal: str) -> None:
    with pytest.raises(SpecError) as caught:
        resolved(job(**fields), spec)
    assert caught.value.refusal == refusal


# Locations


LOCATIONS = [
    ("bucket", "s3://photos/rex/", "s3://photos/rex/"),
    ("archive", "s3://photos/rex.zip", "s3://photos/rex.zip"),
    ("beside-the-manifest", "file:photos/", "file:///home/ann/jobs/photos/"),
    ("above-the-manifest", "file:../photos", "file:///home/ann/photos"),
    ("space", "file:my photos/", "file:///home/ann/jobs/my%20photos/"),
    ("space-encoded", "file:my%20photos/", "file:///home/ann/jobs/my%20photos/"),
    ("absolute", "file:///data/rex/", "file:///data/rex/"),
    ("absolute-short", "file:/data/rex", "file:///data/rex"),
    ("localhost", "file://localhost/data", "file:///data"),
    ("double-slashes", "file:///data//rex/./a", "file:///data/rex/a"),
]


@pytest.mark.parametrize("base", ["file:///home/ann/jobs/", "file:///home/ann/jobs"])
@pytest.mark.parametrize(("given", "expected"), [c[1:] for c in LOCATIONS], ids=[c[0] for c in LOCATIONS])
def test_locations_are_brought_into_one_form(given: str, expected: str, base: str) -> None:
    assert resolved(job(subject__images=given), where=target(base_uri=base)).subject.images == expected


BAD_LOCATIONS = [
    ("parent", "s3://photos/team-a/../team-b/", "must not hold empty path segments, '.' or '..'"),
    ("empty-segment", "s3://photos//team-b/", "must not hold empty path segments, '.' or '..'"),
    ("only-slashes", "s3://photos//", "must not hold empty path segments, '.' or '..'"),
    ("no-bucket", "s3:///rex/", "must name a bucket, as in s3://bucket/folder/"),
    ("absolute-parent", "file:///data/../etc/", "must not hold '..'"),
    ("encoded-parent", "file:///data/%2e%2E/etc/", "must not hold '..'"),
    ("null", "file:///data/%00", "must not hold a null character"),
    ("nothing", "file:", "must name a folder or file, as in file:photos/"),
    ("two-slashes", "file://photos/a",
     "file://photos/a names a machine: write file:photos/a for a folder beside the manifest, or file:///photos/a for an "
     "absolute path"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "message"), [c[1:] for c in BAD_LOCATIONS], ids=[c[0] for c in BAD_LOCATIONS])
def test_locations_that_cannot_be_used(given: str, message: str) -> None:
    assert refused(job(subject__images=given)) == [f"spec.subject.images: {message}"]


def test_a_relative_location_needs_a_manifests_folder() -> None:
    assert refused(job(subject__images="file:photos/"), where=target(base_uri=None)) == [
        "spec.subject.images: file:photos/ is relative to a manifest's folder, which is not known here: use s3://"
    ]


PREFIXES = [
    ("itself", "s3://photos/team", "s3://photos/team", True),
    ("slash-on-either-side", "s3://photos/team/", "s3://photos/team", True),
    ("below", "s3://photos/team/rex/", "s3://photos/team/", True),
    ("longer-segment", "s3://photos/team-b/", "s3://photos/team", False),
    ("longer-bucket", "s3://photos-b/rex/", "s3://photos", False),
    ("above", "s3://photos/", "s3://photos/team/", False),
    ("scheme", "s3://photos/rex/", "s3://", True),
    ("namespace", "s3://photos/team-a/rex/", "s3://photos/{namespace}/", True),
    ("other-namespace", "s3://photos/team-ab/rex/", "s3://photos/{namespace}/", False),
    ("file", "file:///data/rex/", "file:///data", True),
    ("file-sibling", "file:///database/rex/", "file:///data", False),
    ("relative-escapes", "file:../../../etc/", "file:///home/ann", False),
    ("relative-stays", "file:../photos/", "file:///home/ann", True),
    ("case-of-a-key", "s3://photos/Team/", "s3://photos/team", False),
]


@pytest.mark.parametrize(("uri", "prefix", "allowed"), [c[1:] for c in PREFIXES], ids=[c[0] for c in PREFIXES])
def test_prefixes_are_compared_by_whole_segments(uri: str, prefix: str, allowed: bool) -> None:
    manifest, spec = job(subject__images=uri), {"limits": {"readPrefixes": [prefix, "s3://models/"]}}
    if allowed:
        resolved(manifest, spec)
    else:
        (error,) = refused(manifest, spec)
        assert error.startswith("spec.subject.images: runtime default lets jobs read from ")


# What this version does not do


UNSUPPORTED = [
    ("lora", {"method": "LoRA"}, "spec.method: method LoRA"),
    ("textual-inversion", {"method": "TextualInversion"}, "spec.method: method TextualInversion"),
    ("e4t", {"method": "E4T"}, "spec.method: method E4T"),
]


@pytest.mark.parametrize(("fields", "start"), [c[1:] for c in UNSUPPORTED], ids=[c[0] for c in UNSUPPORTED])
def test_what_the_trainer_does_not_do_is_refused_by_name(fields: dict[str, Any], start: str) -> None:
    assert refused(job(**fields)) == [f"{start} is not supported by this version"]


def test_moments_in_8_bits_are_not_offloaded() -> None:
    assert resolved(job(training__optimizer="AdamW8bit")).training.optimizer == "AdamW8bit"
    (error,) = refused(job(training__optimizer="AdamW8bit", parallelism__offload="Optimizer"))
    assert error == (
        "spec.training.optimizer: AdamW8bit cannot be had with parallelism.offload: Optimizer, which leaves no moments "
        "on the device: use AdamW, or no offload"
    )


def test_switching_those_off_explicitly_is_fine() -> None:
    resolved(job(parallelism__offload="Optimizer", evaluation__metrics=[], evaluation__gate={"action": "Fail"}))


# What is measured, and held against a gate


ENCODERS = {"encoders": {"dino": "s3://models/dino/", "clip": "s3://models/clip/"}}


def test_a_class_of_its_own_choice_needs_a_clip() -> None:
    assert resolved(job(subject__className="Auto"), EVERYWHERE | ENCODERS).subject.class_name == "Auto"
    dino = {"encoders": {"dino": "s3://models/dino/"}}
    for runtime_spec in (EVERYWHERE, EVERYWHERE | dino):
        (error,) = refused(job(subject__className="Auto"), runtime_spec)
        assert error == (
            "spec.subject.className: Auto needs a CLIP, and runtime default names no spec.encoders.clip: "
            "name the class, such as dog"
        )


def test_without_encoders_nothing_is_measured() -> None:
    evaluation = resolved(job()).evaluation
    assert (evaluation.metrics, evaluation.encoders, evaluation.gate) == ((), {}, None)


def test_all_is_measured_that_the_encoders_allow() -> None:
    evaluation = resolved(job(), ENCODERS).evaluation
    assert evaluation.metrics == ("Dino", "ClipI", "ClipT", "Pres")
    assert evaluation.encoders == ENCODERS["encoders"]
    assert resolved(job(evaluation__metrics=["ClipT"]), ENCODERS).evaluation.metrics == ("ClipT",)


def test_a_gate_has_its_figures_measured_whatever_metrics_says() -> None:
    fields = {"evaluation__metrics": [], "evaluation__gate": {"identityGain": 0.1, "minPromptFidelity": 0.2}}
    evaluation = resolved(job(**fields), ENCODERS).evaluation
    assert evaluation.metrics == ("Dino", "ClipT")
    assert evaluation.gate is not None and evaluation.gate.action == "Warn"


def test_the_best_state_is_looked_for_where_it_is_asked_for() -> None:
    assert resolved(job(), ENCODERS).evaluation.best_checkpoint is None
    spec = job(training__steps=250, evaluation__bestCheckpoint={"everySteps": 100, "earlyStop": True})
    best = resolved(spec, ENCODERS).evaluation.best_checkpoint
    assert best is not None and best.steps_of(250) == [100, 200, 250] and best.early_stop
    template = "a photo of {identifier} {class}"
    assert best.prompts == (template, f"{template} in the snow", "a photo of a {class}")
    own = {"everySteps": 125, "prompts": ["a {identifier}"]}
    best = resolved(job(training__steps=250, evaluation__bestCheckpoint=own), ENCODERS).evaluation.best_checkpoint
    assert best is not None and best.prompts == ("a {identifier}", "a photo of a {class}")
    assert best.steps_of(250) == [125, 250]


def test_with_one_state_there_is_nothing_to_choose_from() -> None:
    (error,) = refused(job(training__steps=100, evaluation__bestCheckpoint={"everySteps": 100}), ENCODERS)
    assert error == (
        "spec.evaluation.bestCheckpoint.everySteps: must be less than training.steps, 100: there would be nothing to "
        "choose from"
    )


LACKING = [
    (
        "best state",
        {"evaluation__bestCheckpoint": {"everySteps": 10}},
        "spec.evaluation.bestCheckpoint.everySteps: Dino cannot",
        "dino",
    ),
    ("metric", {"evaluation__metrics": ["Dino", "Div"]}, "spec.evaluation.metrics: Div cannot", "lpips"),
    ("gain", {"evaluation__gate": {"identityGain": 0.1}}, "spec.evaluation.gate.identityGain: Dino cannot", "dino"),
    ("drift", {"evaluation__gate": {"maxClassDrift": 0.1}}, "spec.evaluation.gate.maxClassDrift: Pres cannot", "dino"),
    (
        "fidelity",
        {"evaluation__gate": {"minPromptFidelity": 0.1}},
        "spec.evaluation.gate.minPromptFidelity: ClipT cannot",
        "clip",
    ),
]


@pytest.mark.parametrize(("fields", "start", "role"), [c[1:] for c in LACKING], ids=[c[0] for c in LACKING])
def test_what_the_runtime_cannot_measure_is_refused_by_name(fields: dict[str, Any], start: str, role: str) -> None:
    encoders = {name: uri for name, uri in ENCODERS["encoders"].items() if name != role}
    (error,) = refused(job(**fields), {"encoders": encoders})
    assert error == (
        f"{start} be measured: runtime default names no spec.encoders.{role}; set it there, or leave this out"
    )


def test_pres_brings_a_prompt_of_the_class_where_there_is_none() -> None:
    own = ["a {identifier} {class}"]
    assert resolved(job(evaluation__prompts=own), ENCODERS).evaluation.prompts == (*own, CLASS_PROMPT)
    assert resolved(job(evaluation__prompts=own)).evaluation.prompts == tuple(own)


@pytest.mark.parametrize("pack", get_args(PromptPack))
def test_every_pack_has_prompts_of_the_subject_and_one_of_the_class(pack: PromptPack) -> None:
    *own, last = prompts_of(pack)
    assert own and all("{identifier}" in prompt and "{class}" in prompt for prompt in own)
    assert last == CLASS_PROMPT
    assert len(set(own)) == len(own)
    assert len(own) == 25 if pack in ("Objects", "LiveSubjects") else len(own) < 25


# The local runtime


def test_the_local_runtime_allows_files_and_knows_its_models() -> None:
    manifest = changed(
        job(subject__images="file:photos/", output__uri="file:../out/", parallelism__nodes=4),
        {"spec.model.uri": GONE, "spec.model.name": "small-world"},
    )
    config = resolve(
        parse(manifest, PersonalizationJob), local_runtime({"small-world": "file:///m/sw"}), target(devices=1)
    )
    assert (config.model.uri, config.output.uri) == ("file:///m/sw", "file:///home/ann/out/")


def test_a_runtime_from_the_table_works_end_to_end() -> None:
    the_runtime = parse(runtime(limits={"nodes": 1}), PersonalizationRuntime)
    config = resolve(parse(job(model={"name": "sd15"}), PersonalizationJob), the_runtime, target(base_uri=None))
    assert config.model.uri == "s3://models/stable-diffusion-v1-5/"
