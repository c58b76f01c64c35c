"""The numbers of a step: draws that depend on nothing but their index, and the objective against hand-made values."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trainer.tiny_job import MakeConfig

from kubooth_trainer.config import TrainConfig, TrainingConfig, fill_prompt
from kubooth_trainer.draws import HalfBatch, draw_half, seed_for
from kubooth_trainer.ema import Ema
from kubooth_trainer.loop import learning_rate_factor, steps_between_syncs
from kubooth_trainer.loss import NoiseSchedule, add_noise, dreambooth_loss, min_snr_weights

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


def draw(half: Any, samples: range, *, step: int = 3, seed: int = 7, offset_noise: float = 0.0) -> HalfBatch:
    return draw_half(
        half,
        seed=seed,
        step=step,
        samples=samples,
        batch_size=4,
        items=5,
        views=2,
        shape=(4, 8, 8),
        train_timesteps=1000,
        offset_noise=offset_noise,
    )


def test_a_sample_does_not_depend_on_who_draws_it() -> None:
    together = draw("instance", range(4))
    apart = [draw("instance", range(index, index + 1)) for index in range(4)]
    assert together.items == [item for part in apart for item in part.items]
    assert together.noise.equal(torch.cat([part.noise for part in apart]))
    assert together.timesteps.equal(torch.cat([part.timesteps for part in apart]))
    assert together.latent_noise.equal(torch.cat([part.latent_noise for part in apart]))


@pytest.mark.parametrize(
    "other",
    [draw("class", range(4)), draw("instance", range(4), step=4), draw("instance", range(4), seed=8)],
    ids=["half", "step", "seed"],
)
def test_draws_are_independent(other: HalfBatch) -> None:
    mine = draw("instance", range(4))
    assert not mine.timesteps.equal(other.timesteps)
    assert abs(torch.corrcoef(torch.stack([mine.noise.flatten(), other.noise.flatten()]))[0, 1]) < 0.2


def test_every_image_is_seen_once_before_any_is_seen_twice() -> None:
    seen = [item for step in range(5) for item in draw("instance", range(4), step=step).items]
    epochs = [seen[start : start + 5] for start in range(0, 20, 5)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(5))] * 4
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_offset_noise_is_constant_over_pixels() -> None:
    difference = draw("instance", range(4), offset_noise=0.5).noise - draw("instance", range(4)).noise
    assert torch.allclose(difference.std(dim=(2, 3)), torch.zeros(4, 4), atol=1e-6)
    assert difference.abs().mean() > 0.1


def test_seeds_differ_by_path() -> None:
    assert len({seed_for(1, "a"), seed_for(1, "b"), seed_for(2, "a"), seed_for(1, "a", 0)}) == 4


def test_alpha_bar_is_that_of_stable_diffusion() -> None:
    schedule = NoiseSchedule.from_config(SD, zero_terminal_snr=False)
    betas = [(math.sqrt(0.00085) + k / 999 * (math.sqrt(0.012) - math.sqrt(0.00085))) ** 2 for k in range(1000)]
    assert schedule.alpha_bar[0].item() == pytest.approx(1 - betas[0], rel=1e-5)
    assert schedule.alpha_bar[-1].item() == pytest.approx(math.prod(1 - beta for beta in betas), rel=1e-3)


def test_betas_of_the_models_own_are_one_for_each_timestep() -> None:
    with pytest.raises(ValueError, match="trained_betas has 2 values, num_train_timesteps says 1000"):
        NoiseSchedule.from_config({**SD, "trained_betas": [0.1, 0.2]}, zero_terminal_snr=False)


def test_zero_terminal_snr() -> None:
    plain = NoiseSchedule.from_config(SD, zero_terminal_snr=False)
    rescaled = NoiseSchedule.from_config(SD, zero_terminal_snr=True)
    assert rescaled.alpha_bar[-1].item() == 0.0
    assert rescaled.alpha_bar[0].item() == pytest.approx(plain.alpha_bar[0].item(), rel=1e-6)
    assert bool((rescaled.alpha_bar.diff() < 0).all())


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_noise_and_target(prediction: Any) -> None:
    schedule = NoiseSchedule(torch.tensor([0.64]), prediction)
    clean, noise = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 0.5)
    noisy, target = add_noise(schedule, clean, noise, torch.tensor([0]))
    assert noisy.item() == pytest.approx(0.8 * 2.0 + 0.6 * 0.5)
    assert target.item() == pytest.approx(0.5 if prediction == "epsilon" else 0.8 * 0.5 - 0.6 * 2.0)


@pytest.mark.parametrize(
    ("prediction", "alpha_bar", "weight"),
    [
        ("epsilon", 0.5, 1.0),  # snr 1 < gamma
        ("epsilon", 10 / 11, 0.5),  # snr 10: 5 / 10
        ("epsilon", 0.0, 1.0),
        ("epsilon", 1.0, 0.0),
        ("v_prediction", 10 / 11, 5 / 11),
        ("v_prediction", 0.5, 0.5),
        ("v_prediction", 0.0, 0.0),
        ("v_prediction", 1.0, 0.0),
    ],
)
def test_min_snr_weights(prediction: Any, alpha_bar: float, weight: float) -> None:
    schedule = NoiseSchedule(torch.tensor([alpha_bar]), prediction)
    assert min_snr_weights(schedule, torch.tensor([0]), gamma=5.0).item() == pytest.approx(weight, abs=1e-6)
    assert min_snr_weights(schedule, torch.tensor([0]), gamma=None).item() == 1.0


@pytest.mark.parametrize("gamma", [0.3, 1.0, 5.0, 7.7])
def test_min_snr_weights_for_epsilon_are_the_formula_to_the_last_bit(gamma: float) -> None:
    schedule = NoiseSchedule.from_config(SD, zero_terminal_snr=False)
    timesteps = torch.arange(1000)
    snr = schedule.snr(timesteps)
    assert min_snr_weights(schedule, timesteps, gamma=gamma).equal(snr.clamp(max=gamma) / snr)


def test_the_loss_is_instance_plus_lambda_times_prior() -> None:
    target = torch.zeros(4, 1, 2, 2)
    prediction = torch.tensor([1.0, 3.0, 2.0, 4.0]).view(4, 1, 1, 1).expand(4, 1, 2, 2)
    weights = torch.tensor([1.0, 0.5, 1.0, 0.25])
    terms = dreambooth_loss(prediction, target, weights, instances=2, prior_weight=0.5)
    assert terms.instance.item() == pytest.approx((1 + 9 * 0.5) / 2)
    assert terms.prior.item() == pytest.approx((4 + 16 * 0.25) / 2)
    assert terms.total.item() == pytest.approx(2.75 + 0.5 * 4.0)


def test_without_class_images_the_prior_term_is_zero() -> None:
    terms = dreambooth_loss(torch.ones(2, 1, 1, 1), torch.zeros(2, 1, 1, 1), torch.ones(2), instances=2, prior_weight=1)
    assert (terms.total.item(), terms.prior.item()) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("Constant", 0, {0: 1.0, 9: 1.0}),
        ("Constant", 4, {0: 0.25, 3: 1.0, 9: 1.0}),
        ("Linear", 0, {0: 1.0, 5: 0.5}),
        ("Cosine", 0, {0: 1.0, 5: 0.5}),
        ("Cosine", 2, {0: 0.5, 2: 1.0, 6: 0.5}),
    ],
)
def test_learning_rate(make_config: MakeConfig, schedule: str, warmup: int, expected: dict[int, float]) -> None:
    training: TrainingConfig = TrainConfig.model_validate(
        make_config(training__steps=10, training__lr_schedule=schedule, training__warmup_steps=warmup)
    ).training
    for step, factor in expected.items():
        assert learning_rate_factor(training, step) == pytest.approx(factor)


@pytest.mark.parametrize(("seconds", "steps"), [(0.01, 5), (6.0, 5), (7.0, 4), (20.0, 1), (600.0, 1)])
def test_slow_steps_are_fewer_between_two_looks_at_the_stop_flag(seconds: float, steps: int) -> None:
    assert steps_between_syncs(seconds) == steps


def test_ema_follows_with_a_warm_up_of_its_decay() -> None:
    shard = torch.zeros(2)
    ema = Ema(SimpleNamespace(shards=lambda: [shard]), decay=0.5)  # type: ignore[arg-type]
    expected = 0.0
    for step in range(1, 30):
        shard += 1.0
        ema.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
        assert ema._average[0].tolist() == pytest.approx([expected] * 2)


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("a photo of {identifier} {class}", "a photo of zqx dog"),
        ("a photo of a {class}", "a photo of a dog"),
        ("{0} {identifier.__class__} {class}", "{0} {identifier.__class__} dog"),
        ("a  {identifier}   {class}", "a zqx dog"),
    ],
)
def test_prompts_are_filled_literally(template: str, filled: str) -> None:
    assert fill_prompt(template, identifier="zqx", class_name="dog") == filled
