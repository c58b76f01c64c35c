"""Class images in a work folder: each with the latent it was decoded from, which is what training sees."""

from __future__ import annotations

import numpy as np
import torch
from prior.shelf import Job, Shelf

from kubooth_trainer import latents
from kubooth_trainer.class_images import ClassImages, class_image_paths, class_latent_path, drop_damaged
from kubooth_trainer.draws import generator_for

IMAGES = 11  # a batch and a part of one


def images_of(job: Job) -> ClassImages:
    return ClassImages(paths=class_image_paths(job.folder, IMAGES), key="ab")


def as_drawn(job: Job) -> torch.Tensor:
    """What `DrawingSampler` draws for the images of the job."""
    shape, seed = job.sampler.latent_shape, job.config.training.seed
    return torch.stack([torch.randn(shape, generator=generator_for(seed, "prior", index)) for index in range(IMAGES)])


def test_made_or_taken_they_have_the_latents_that_were_sampled(shelf: Shelf) -> None:
    maker, taker = shelf.job(IMAGES), shelf.job(IMAGES)
    assert maker.run().made == IMAGES and taker.run().taken == IMAGES
    for job in (maker, taker):
        assert torch.equal(images_of(job).latents(), as_drawn(job))


def test_training_sees_them_as_they_are_whatever_is_drawn(shelf: Shelf) -> None:
    job = shelf.job(IMAGES)
    job.run()
    kept = latents.as_sampled(images_of(job).latents())
    assert (kept.items, kept.views, kept.shape) == (IMAGES, 1, job.sampler.latent_shape)
    chosen, noise = torch.tensor([3, 9]), torch.randn((2, *job.sampler.latent_shape))
    assert torch.equal(kept.sample(chosen, torch.tensor([0, 0]), noise), as_drawn(job)[[3, 9]])


def test_one_whose_latent_is_damaged_is_made_again(shelf: Shelf) -> None:
    job = shelf.job(IMAGES, cached=False)
    job.run()
    pictures = job.pictures
    first, second = (class_latent_path(job.folder / f"0000{index}.png") for index in (2, 5))
    first.write_bytes(first.read_bytes()[:-3])
    second.unlink()
    assert drop_damaged(job.folder, IMAGES) == 2
    again = job.run()
    assert again.made == 8 and job.pictures == pictures  # its whole batch
    assert np.array_equal(images_of(job).latents().numpy(), as_drawn(job).numpy())
