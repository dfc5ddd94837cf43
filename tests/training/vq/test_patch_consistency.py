"""Patch consistency loss: grouping of patches, value and gradients."""

from __future__ import annotations

import torch

from emu3.training.vq.patch_consistency import patch_consistency_loss, patch_ids


def test_patches_are_grouped_by_pixels() -> None:
    pixels = torch.rand(2, 3, 16, 24)
    pixels[1, :, 8:, :8] = pixels[0, :, :8, 16:]  # one patch is copied to another place
    pixels[0, :, 8:] = 0.5  # a row of plain patches
    groups = patch_ids(pixels, 8)
    patches = pixels.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    equal = (patches[:, None] == patches[None]).flatten(2).all(-1)
    assert torch.equal(groups[:, None] == groups[None], equal)
    assert len(groups.unique()) == 12 - 1 - 2


def test_loss_pulls_latents_to_the_mean_of_their_group() -> None:
    latent = torch.randn(6, 4, requires_grad=True)
    groups = torch.tensor([0, 1, 1, 2, 2, 2])
    loss = patch_consistency_loss(latent, groups)
    means = torch.stack([latent[groups == g].mean(0) for g in groups])
    spread = latent.var(0).mean()
    torch.testing.assert_close(loss, (latent - means).square().mean() / spread)
    loss.backward()
    assert latent.grad is not None
    assert latent.grad[1:].abs().min() > 0
    # The loss has no gradient along the scale of the latents.
    centred = latent.detach() - latent.detach().mean(0)
    assert abs((latent.grad * centred).sum()) < 1e-6


def test_loss_does_not_depend_on_scale() -> None:
    latent, groups = torch.randn(6, 4), torch.tensor([0, 1, 1, 2, 2, 2])
    torch.testing.assert_close(
        patch_consistency_loss(latent / 100, groups), patch_consistency_loss(latent, groups)
    )


def test_equal_latents_have_no_loss() -> None:
    groups = torch.tensor([0, 0, 1])
    assert patch_consistency_loss(torch.tensor([[1.0], [1.0], [5.0]]), groups) == 0
