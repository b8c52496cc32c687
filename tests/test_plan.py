"""What is chosen for a run that the user left open, and that it is said."""

from pathlib import Path

import pytest
import torch

from cleanweb import plan
from cleanweb.errors import UsageError
from cleanweb.methods import METHODS
from cleanweb.network import SMALL, Backbone
from cleanweb.settings import CLASSIFIER, METHOD_NAMES, RECIPE_NAMES, RECIPES, TUNES, Recipe, Settings

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
PRETRAINED, SCRATCH = Backbone("resnet18", True), Backbone(SMALL, False)


def settings(**changes) -> Settings:
    return Settings(source=Path("crawl"), **changes)


@pytest.mark.parametrize(
    ("backbone", "device", "n", "tune", "size"),
    [
        (SCRATCH, CPU, 100, "full", "small"),
        (SCRATCH, CUDA, 10**6, "full", "small"),
        (PRETRAINED, CPU, 10**6, "head", "head"),
        (PRETRAINED, CUDA, plan.MANY_IMAGES - 1, "head", "head"),
        (PRETRAINED, CUDA, plan.MANY_IMAGES, "full", "large"),
    ],
)
@pytest.mark.parametrize("recipe", RECIPE_NAMES)
def test_the_machine_and_the_crawl_choose(backbone, device, n: int, tune: str, size: str, recipe: str):
    training = plan.training(settings(recipe=recipe), device, backbone, n)
    assert training.tune == tune
    assert training.recipe == RECIPES[recipe][size]
    assert training.classifier == CLASSIFIER[size]
    assert training.epochs == training.recipe.epochs
    assert training.classifier_epochs <= training.classifier.epochs


def test_what_was_asked_for_is_what_is_done():
    training = plan.training(settings(epochs=3, batch_size=7, tune="full"), CPU, PRETRAINED, 10)
    assert (training.epochs, training.recipe.batch_size, training.tune) == (3, 7, "full")
    assert training.classifier_epochs <= 3
    assert RECIPES["auto"]["large"].batch_size != 7


def test_everything_chosen_is_said_in_words():
    said = " ".join(plan.training(settings(), CPU, PRETRAINED, 10).words)
    for word in ("resnet18", "cpu", "--tune head", "josrc", "auto", "epochs"):
        assert word in said
    why = "The weights are not on this machine."
    assert plan.training(settings(), CPU, Backbone(SMALL, False, why=why), 10).words[0] == why


def test_the_papers_recipe_decides_as_the_paper_does():
    training = plan.training(settings(recipe="paper"), CPU, SCRATCH, 10)
    assert training.rule == {"epsilon": training.recipe.epsilon, "tau": training.recipe.tau_m}
    assert plan.training(settings(), CPU, SCRATCH, 10).rule is None


@pytest.mark.parametrize("method", METHOD_NAMES)
@pytest.mark.parametrize("recipe", RECIPE_NAMES)
def test_every_choice_is_there_or_refused_in_words(method: str, recipe: str):
    asked = settings(method=method, recipe=recipe, backbone=SMALL)
    if recipe in METHODS[method]:
        assert plan.network(asked, CPU)[0] == SCRATCH
    else:
        with pytest.raises(UsageError, match=f"{method}.*{recipe}"):
            plan.network(asked, CPU)


@pytest.mark.parametrize("wrong", [{"method": "magic"}, {"recipe": "magic"}, {"tune": "magic"}])
def test_a_choice_that_does_not_exist_is_refused_in_words(wrong: dict):
    """The command line lists the choices; a call from Python may name anything."""
    with pytest.raises(UsageError, match="magic"):
        plan.network(settings(backbone=SMALL, **wrong), CPU)


def test_a_head_on_a_network_from_scratch_is_refused_in_words():
    with pytest.raises(UsageError, match=f"{SMALL}.*--tune full"):
        plan.network(settings(backbone=SMALL, tune="head"), CPU)


def test_pixels_are_those_of_the_network_unless_asked_otherwise():
    _, pixels = plan.network(settings(backbone="resnet18", weights="none"), CPU)
    assert pixels.size_px == 224
    assert pixels.mean == pytest.approx((0.485, 0.456, 0.406))
    _, pixels = plan.network(settings(backbone="resnet18", weights="none", image_size=96), CPU)
    assert pixels.size_px == 96


@pytest.mark.parametrize("recipes", [*RECIPES.values(), CLASSIFIER])
def test_recipes_make_sense(recipes: dict[str, Recipe]):
    assert set(recipes) == {"small", "large", "head"}
    for recipe in recipes.values():
        assert recipe.epochs > 0
        assert recipe.batch_size > 1
        assert recipe.lr > 0
        assert recipe.folds >= 1
        assert recipe.optimiser in ("adam", "sgd")
        assert recipe.schedule in ("linear", "cosine")
        for share in (recipe.decay_from, recipe.warmup, recipe.epsilon, recipe.alpha, recipe.omega):
            assert 0 <= share < 1
        assert 0 < recipe.tau_c <= recipe.tau_m <= 1
        for epochs in (1, 2, 5, recipe.epochs, 1000):
            assert 1 <= recipe.warmup_epochs(epochs) <= epochs


def test_the_lists_agree():
    assert set(RECIPES) == set(RECIPE_NAMES)
    assert "auto" in TUNES
