"""Views: each image its own draw, the same seed the same views; batches that cover everything once."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cleanweb.features import FeatureBatches, MeanView, moments
from cleanweb.views import VIEWS, ImageBatches, Pixels, distorted, loaded_side, strong, weak

SIZES = [32, 64, 224]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(n: int, side: int) -> torch.Tensor:
    return torch.randint(0, 256, (n, side, side, 3), dtype=torch.uint8, generator=seeded(1))


@pytest.mark.parametrize(("size", "side"), [(32, 32), (64, 64), (224, 256), (128, 146)])
def test_large_images_are_loaded_with_a_margin(size: int, side: int):
    assert loaded_side(size) == side


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", VIEWS)
def test_views_have_the_size_of_the_network(name: str, size: int):
    images = pictures(3, loaded_side(size))
    before = images.clone()
    view = VIEWS[name](images, size, seeded())
    assert view.shape == (3, size, size, 3)
    assert view.dtype == torch.uint8
    assert torch.equal(images, before)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", VIEWS)
def test_every_image_has_its_own_draw(name: str, size: int):
    images = pictures(1, loaded_side(size)).repeat(16, 1, 1, 1)
    view = VIEWS[name](images, size, seeded())
    assert len({v.numpy().tobytes() for v in view}) >= 14


@pytest.mark.parametrize("name", VIEWS)
def test_a_seed_is_a_view(name: str):
    images = pictures(8, 32)
    one, same, other = (VIEWS[name](images, 32, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_global_randomness_is_neither_used_nor_changed():
    state = torch.random.get_rng_state()
    strong(pictures(4, 32), 32, seeded())
    assert torch.equal(state, torch.random.get_rng_state())


def windows(image: torch.Tensor, size: int) -> set[bytes]:
    """Every crop of an image, and its mirror image."""
    found = set()
    for top in range(image.shape[0] - size + 1):
        for left in range(image.shape[1] - size + 1):
            crop = image[top : top + size, left : left + size]
            found |= {crop.numpy().tobytes(), crop.flip(1).numpy().tobytes()}
    return found


def test_a_weak_view_is_a_crop_or_its_mirror_image():
    image = pictures(1, 80)
    possible = windows(image[0], 70)
    views = {v.numpy().tobytes() for v in weak(image.repeat(300, 1, 1, 1), 70, seeded())}
    assert views <= possible
    assert len(views) > 150  # of 2·11²


def test_a_weak_view_of_a_small_image_is_padded_with_black():
    image = pictures(1, 16).clamp_min(1)
    padded = torch.nn.functional.pad(image[0], (0, 0, 2, 2, 2, 2))
    views = {v.numpy().tobytes() for v in weak(image.repeat(600, 1, 1, 1), 16, seeded())}
    assert views <= windows(padded, 16)
    assert len(views) == 2 * 5**2  # with 600 draws, every one of them


def test_half_of_the_views_are_mirrored():
    ramp = torch.arange(32, dtype=torch.uint8)[None, None, :, None].expand(400, 32, 32, 3)
    view = weak(ramp, 32, seeded()).float()
    mirrored = (view[:, 16, 12, 0] > view[:, 16, 20, 0]).float().mean()
    assert 0.4 < mirrored < 0.6


def test_a_strong_view_changes_light_and_geometry():
    images = torch.full((50, 32, 32, 3), 150, dtype=torch.uint8)
    assert strong(images, 32, seeded()).float().mean((1, 2, 3)).std() > 5
    ramp = torch.arange(32, dtype=torch.uint8)[None, None, :, None].expand(50, 32, 32, 3) * 6
    down = strong(ramp, 32, seeded()).float()[:, 8:24, 16, 0]  # constant unless the image is turned
    assert (down.std(1) > 2).float().mean() > 0.5


@pytest.mark.parametrize("value", [0, 255])
def test_a_strong_view_stays_in_range(value: int):
    """Beyond white is white: an overflow would be black."""
    view = strong(torch.full((50, 64, 64, 3), value, dtype=torch.uint8), 64, seeded())
    inside = view[:, 8:56, 8:56]
    if value == 0:
        assert inside[inside != 127].max() == 0
    else:
        assert inside[inside != 127].min() >= 0.6 * 255 - 1


def test_a_distorted_view_is_a_part_of_the_picture_and_at_times_grey():
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    image = torch.stack([4 * rows, 4 * columns, 0 * rows], 2).to(torch.uint8)  # a place is told by its colour
    views = distorted(image.expand(400, 64, 64, 3), 64, seeded()).float()
    grey = (views.std(3) < 1).flatten(1).all(1)
    assert 0.13 < grey.float().mean() < 0.28
    coloured = views[~grey]
    spread = (coloured.amax((1, 2)) - coloured.amin((1, 2)))[:, :2] / 255  # of the rows and columns that are seen
    assert spread.prod(1).quantile(0.1) < 0.45
    assert spread.max() > 0.9
    assert views.mean((1, 2, 3)).std() > 10


@pytest.mark.parametrize("value", [0, 255])
def test_a_distorted_view_stays_in_range(value: int):
    view = distorted(torch.full((50, 48, 64, 3), value, dtype=torch.uint8), 32, seeded())
    assert view.shape == (50, 32, 32, 3)
    assert view.max() == 0 if value == 0 else view.min() >= 0.6 * 255 - 1


def test_normalise():
    pixels = Pixels(32, (0.5, 0.25, 0.0), (0.5, 0.25, 1.0))
    images = pictures(2, 32)
    x = pixels.normalise(images)
    assert x.shape == (2, 3, 32, 32)
    assert x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last)
    expected = (images.float() / 255 - torch.tensor(pixels.mean)) / torch.tensor(pixels.std)
    torch.testing.assert_close(x, expected.permute(0, 3, 1, 2))


# --- batches --------------------------------------------------------------------------------------------------------


def image_batches(n: int, batch_size: int, seed: int = 0, views: tuple[str, ...] = ("weak", "strong")) -> ImageBatches:
    """Every picture is of one colour: its index."""
    stored = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 8, 8, 3))
    pixels = Pixels(8, (0.0,) * 3, (1 / 255,) * 3)
    return ImageBatches(lambda at, side: stored[at], np.arange(n) % 3, pixels, views, batch_size, seed,
                        torch.device("cpu"))  # fmt: skip


def feature_batches(n: int, batch_size: int, seed: int = 0, n_views: int = 2) -> FeatureBatches:
    """Feature 0 is the index, feature 1 the stored view."""
    features = np.stack(np.broadcast_arrays(np.arange(n)[None], np.arange(3)[:, None]), axis=2).astype(np.float16)
    return FeatureBatches(features, np.arange(n) % 3, n_views, batch_size, seed, torch.device("cpu"))


@pytest.mark.parametrize("make", [image_batches, feature_batches])
@given(n=st.integers(1, 200), batch_size=st.integers(2, 70), epoch=st.integers(1, 300))
@settings(max_examples=20, deadline=None)
def test_an_epoch_covers_everything_once_with_its_label(make, n: int, batch_size: int, epoch: int):
    seen = list(make(n, batch_size)(epoch))
    indices = torch.cat([batch.indices for batch in seen])
    assert sorted(indices.tolist()) == list(range(n))
    for batch in seen:
        assert torch.equal(batch.labels, batch.indices % 3)
        assert batch.labels.dtype == batch.indices.dtype == torch.int64
        assert all(len(view) == len(batch.indices) for view in batch.views)


@pytest.mark.parametrize("make", [image_batches, feature_batches])
def test_views_show_the_samples_of_the_batch(make):
    for batch in make(40, 16)(3):
        assert len(batch.views) == 2
        for view in batch.views[:1]:
            shown = view[:, 0, 4, 4] if view.ndim == 4 else view[:, 0]
            assert torch.equal(shown.round().long(), batch.indices)


@pytest.mark.parametrize("make", [image_batches, feature_batches])
@pytest.mark.parametrize("batch_size", [2, 3, 8, 64])
def test_no_batch_is_a_single_sample(make, batch_size: int):
    """Batch norm needs company."""
    for k in (1, 2, 3, 4):
        sizes = [len(batch.indices) for batch in make(k * batch_size + 1, batch_size)(1)]
        assert min(sizes) > 1
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("make", [image_batches, feature_batches])
@given(n=st.integers(2, 500), batch_size=st.integers(2, 64))
@settings(max_examples=20, deadline=None)
def test_batches_are_about_as_large_as_asked(make, n: int, batch_size: int):
    sizes = [len(batch.indices) for batch in make(n, batch_size, 0)(1)]
    assert max(sizes) <= math.ceil(1.5 * batch_size)
    assert min(sizes) >= min(n, batch_size // 2)


def same(one: list, other: list) -> bool:
    pairs = zip(one, other, strict=True)
    return all(torch.equal(a.indices, b.indices) and all(map(torch.equal, a.views, b.views)) for a, b in pairs)


@pytest.mark.parametrize("make", [image_batches, feature_batches])
def test_batches_depend_on_seed_and_epoch_alone(make):
    batches = make(40, 16)
    first = list(batches(3))
    torch.manual_seed(5)
    np.random.default_rng(5)
    assert same(first, list(batches(3)))
    assert same(first, list(make(40, 16)(3)))
    assert not same(first, list(batches(4)))
    assert not same(first, list(make(40, 16, 1)(3)))


def test_the_stored_views_of_a_sample_are_different_ones():
    drawn = set()
    for epoch in range(1, 6):
        for batch in feature_batches(60, 20)(epoch):
            one, other = (view[:, 1].long() for view in batch.views)
            assert (one != other).all()
            drawn |= set(zip(one.tolist(), other.tolist(), strict=True))
    assert len(drawn) == 6  # every ordered pair of the three


def test_the_pixels_are_loaded_at_the_side_that_is_cropped_from():
    asked = []

    def load(at: np.ndarray, side: int) -> np.ndarray:
        asked.append(side)
        return np.zeros((len(at), side, side, 3), np.uint8)

    pixels = Pixels(112, (0.5,) * 3, (0.5,) * 3)
    (batch,) = ImageBatches(load, np.zeros(4, np.int64), pixels, ("weak",), 8, 0, torch.device("cpu"))(1)
    assert asked == [128]
    assert batch.views[0].shape == (4, 3, 112, 112)


# --- stored features, of which some are learned ---------------------------------------------------------------------


def test_batches_of_some_images_are_those_of_their_features_alone():
    rng = np.random.default_rng(0)
    features, known = rng.normal(size=(2, 50, 3)).astype(np.float16), np.array([3, 8, 9, 20, 41, 42])
    labels, where = np.arange(6), torch.device("cpu")
    some = FeatureBatches(features, labels, 2, 4, 0, where, known)
    alone = FeatureBatches(features[:, known], labels, 2, 4, 0, where)
    for one, other in zip(some(1), alone(1), strict=True):
        assert torch.equal(one.indices, other.indices)
        assert all(torch.equal(a, b) for a, b in zip(one.views, other.views, strict=True))


def test_moments_are_those_of_all_views_far_from_zero_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cleanweb.features._ROWS", 7)
    stored = (100 + np.random.default_rng(0).normal(size=(2, 60, 5))).astype(np.float16)
    known = np.arange(0, 60, 2)
    flat = stored[:, known].reshape(-1, 5).astype(np.float64)
    mean, std = moments(stored, known)
    np.testing.assert_allclose(mean, flat.mean(0), rtol=1e-6)
    np.testing.assert_allclose(std, flat.std(0), rtol=1e-5)
    rows = MeanView(stored)
    assert len(rows) == 60
    np.testing.assert_allclose(rows[known], stored[:, known].astype(np.float32).mean(0))
