"""What is chosen for a run that the user left open, and that it is said."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cleanweb import plan
from cleanweb.backbone import Backbone
from cleanweb.errors import UsageError
from cleanweb.methods import METHODS, TAKE_NOISE_RATE
from cleanweb.network import SMALL
from cleanweb.settings import CLASSIFIER, METHOD_NAMES, PAPER_RECIPES, RECIPE_NAMES, RECIPES, TUNES, Recipe, Settings

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
@pytest.mark.parametrize("recipe", METHODS["josrc"])
def test_the_machine_and_the_crawl_choose(backbone, device, n: int, tune: str, size: str, recipe: str):
    training = plan.training(settings(recipe=recipe), device, backbone, n)
    assert training.tune == tune
    rounds = RECIPES[recipe][size].rounds if n < plan.FEW_IMAGES else 1
    refine = RECIPES[recipe][size].refine if recipe == "auto" else 0
    pretrain = RECIPES[recipe][size].pretrain if recipe == "auto" and n >= plan.FEW_IMAGES else None
    assert training.recipe == replace(RECIPES[recipe][size], rounds=rounds, refine=refine, pretrain=pretrain)
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


def test_how_often_it_is_learned_is_said():
    def said(n: int, backbone: Backbone = SCRATCH, **changes) -> str:
        return next(line for line in plan.training(settings(**changes), CPU, backbone, n).words if "--method" in line)

    assert said(600).endswith("40 epochs for each of 3 folds in 3 rounds.")
    assert said(2500).endswith("40 epochs for each of 3 folds in 2 rounds.")
    assert said(10**5).endswith("40 epochs for each of 3 folds.")
    assert said(600, PRETRAINED).endswith("15 epochs for each of 5 folds.")
    assert said(600, recipe="paper").endswith("200 epochs.")


@pytest.mark.parametrize("recipe", PAPER_RECIPES)
def test_the_papers_recipes_learn_at_once_and_decide_as_the_paper_does(recipe: str):
    training = plan.training(settings(recipe=recipe), CPU, SCRATCH, 10)
    assert training.recipe.folds == 1
    assert training.rule == {"epsilon": training.recipe.epsilon, "tau": training.recipe.tau_m}
    assert plan.training(settings(), CPU, SCRATCH, 10).rule is None


@pytest.mark.parametrize(
    ("method", "recipe"), [(name, recipe) for name in METHODS if name != "josrc" for recipe in METHODS[name]]
)
def test_the_papers_criteria_are_jo_srcs_alone(method: str, recipe: str):
    assert plan.training(settings(method=method, recipe=recipe), CPU, SCRATCH, 10).rule is None


@pytest.mark.parametrize("method", TAKE_NOISE_RATE)
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_a_noise_rate_is_handed_on_and_said(method: str, rate: float):
    asked = settings(method=method, noise_rate=rate, backbone=SMALL)
    assert plan.network(asked, CPU)[0] == SCRATCH
    training = plan.training(asked, CPU, SCRATCH, 10)
    assert training.recipe.noise_rate == rate
    assert f"--noise-rate {rate:g}" in " ".join(training.words)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 40.0, float("nan")])
def test_a_noise_rate_that_is_no_share_is_refused_in_words(rate: float):
    with pytest.raises(UsageError, match=r"--noise-rate .*from 0 to below 1"):
        plan.network(settings(method="jocor", noise_rate=rate, backbone=SMALL), CPU)


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_a_noise_rate_is_given_where_it_is_asked_for_and_nowhere_else(method: str):
    wrong = None if method in TAKE_NOISE_RATE else 0.2
    with pytest.raises(UsageError, match=f"--method {re.escape(method)} .*--noise-rate"):
        plan.network(settings(method=method, noise_rate=wrong, backbone=SMALL), CPU)


@pytest.mark.parametrize("method", METHOD_NAMES)
@pytest.mark.parametrize("recipe", RECIPE_NAMES)
def test_every_choice_is_there_or_refused_in_words(method: str, recipe: str):
    rate = 0.2 if method in TAKE_NOISE_RATE else None
    asked = settings(method=method, recipe=recipe, backbone=SMALL, noise_rate=rate)
    if recipe in METHODS[method]:
        assert plan.network(asked, CPU)[0] == SCRATCH
    else:
        with pytest.raises(UsageError, match=f"{re.escape(method)}.*{recipe}"):
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


def test_what_trains_the_whole_network_is_not_left_to_a_head():
    assert plan.training(settings(), CPU, PRETRAINED, 10).recipe.pretrain is None
    for asked, kind in (({"method": "codim"}, "self"), ({"method": "codim", "recipe": "sup"}, "sup"),
                        ({"pretrain": "self"}, "self"), ({"method": "codim", "pretrain": "none"}, None)):  # fmt: skip
        training = plan.training(settings(**asked), CPU, PRETRAINED, 10)
        assert training.recipe.pretrain == kind
        assert training.tune == "full" or kind is None
        assert any("--pretrain" in line for line in training.words) == (kind is not None)
        with pytest.raises(UsageError, match="--tune full"):
            plan.network(settings(**asked, tune="head", backbone=SMALL), CPU)


@pytest.mark.parametrize(("n", "rounds"), [(1, 3), (2000, 3), (2001, 2), (3000, 2), (3001, 1), (10**6, 1)])
def test_networks_from_scratch_learn_from_few_images_in_several_rounds(n: int, rounds: int):
    assert plan.training(settings(), CPU, SCRATCH, n).recipe.rounds == rounds
    assert plan.training(settings(), CPU, PRETRAINED, n).recipe.rounds == 1
    assert plan.training(settings(recipe="paper"), CPU, SCRATCH, n).recipe.rounds == 1
    assert plan.training(settings(hyperparameters={"rounds": 5}), CPU, SCRATCH, n).recipe.rounds == 5


def test_networks_from_scratch_begin_with_a_contrast_on_many_images():
    def kind(n: int, backbone: Backbone = SCRATCH, **asked) -> str | None:
        return plan.training(settings(**asked), CPU, backbone, n).recipe.pretrain

    many = plan.FEW_IMAGES
    assert kind(many) == "self"
    assert kind(many, pretrain="sup") == "sup"
    for asked in ({"pretrain": "none"}, {"recipe": "paper"}, {"recipe": "snc"}, {"method": "standard"}):
        assert kind(many, **asked) is None
    assert kind(many, PRETRAINED) is None
    assert kind(many - 1) is None
    assert kind(many - 1, pretrain="self") == "self"


def test_networks_from_scratch_go_on_after_learning(monkeypatch: pytest.MonkeyPatch):
    def training(backbone: Backbone = SCRATCH, **asked) -> plan.Training:
        return plan.training(settings(**asked), CPU, backbone, 5000)

    assert training().recipe.refining_epochs(40) == 20
    assert "Then 20 epochs on labels that the networks set right for each other." in training().words
    for asked in ({"recipe": "paper"}, {"recipe": "snc"}, {"method": "standard"}, {"hyperparameters": {"refine": 0}}):
        assert not training(**asked).recipe.refine
        assert not any("set right" in line for line in training(**asked).words)
    assert training(method="standard", hyperparameters={"refine": 1}).recipe.refining_epochs(40) == 40
    assert not training(PRETRAINED).recipe.refine
    assert not training(hyperparameters={"folds": 1}).recipe.refine
    monkeypatch.setattr(plan, "choose_backbone", lambda *_: PRETRAINED)
    with pytest.raises(UsageError, match="start from scratch"):
        plan.network(settings(hyperparameters={"refine": 1}), CPU)


@pytest.mark.parametrize(
    ("backbone", "device", "n", "changes", "processes"),
    [
        (SCRATCH, CPU, 1000, {}, 4),
        (SCRATCH, CPU, 1000, {"workers": 2}, 2),
        (SCRATCH, CPU, 1000, {"workers": 0}, 1),
        (SCRATCH, CPU, 5000, {}, 3),  # networks
        (SCRATCH, CPU, 50, {"epochs": 2}, 1),  # done before processes have started
        (SCRATCH, CPU, 1000, {"image_size": 224}, 1),
        (SCRATCH, CPU, 1000, {"method": "codim"}, 2),  # networks, pre-trained once before
        (SCRATCH, CUDA, 1000, {}, 1),
        (PRETRAINED, CPU, 1000, {}, 1),
    ],
)
def test_small_networks_are_trained_at_the_same_time(backbone, device, n, changes, processes: int, monkeypatch):
    monkeypatch.setattr(plan.machine, "cores", lambda: 4)
    training = plan.training(settings(**changes), device, backbone, n)
    assert training.processes == processes
    assert any(f"in {processes} processes" in words for words in training.words) == (processes > 1)
