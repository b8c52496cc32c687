"""Networks: what they are made of, where their weights come from, and what is kept of them on disk."""

import json
import time
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from cleanweb import backbone
from cleanweb.backbone import Backbone, choose_backbone
from cleanweb.classifier import load_classifier, save_classifier
from cleanweb.errors import CleanwebError, MachineError, UsageError
from cleanweb.network import FROM_SCRATCH, SMALL, FeatureHead, MeanTeacher, Network, twin

WEIGHTS = Path(__file__).resolve().parents[2] / "shared" / "weights" / "mobilenetv2_100"
PUBLISHED = "mobilenetv2_100.ra_in1k"


def seeded(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def made(name: str = SMALL, n_classes: int = 4) -> nn.Module:
    """A network whose batch-norm statistics are not those it started with."""
    torch.manual_seed(0)
    model = Backbone(name, False).build(n_classes)
    model.train()(seeded(8, 3, 32, 32))
    return model.eval()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without a network and with an empty cache: gives the cache."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


# --- the small networks ---------------------------------------------------------------------------------------------


def layers(model: nn.Module, kind: type) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, kind)]


def test_cnn7_has_the_papers_seven_layers():
    model = timm.create_model("cnn7", num_classes=80)
    convolutions = layers(model, nn.Conv2d)
    assert [(c.in_channels, c.out_channels) for c in convolutions] == [
        (3, 64), (64, 64), (64, 128), (128, 128), (128, 196), (196, 16)
    ]  # fmt: skip
    assert {c.kernel_size for c in convolutions} == {(3, 3)}
    assert [(fc.in_features, fc.out_features) for fc in layers(model, nn.Linear)] == [(256, 80)]
    assert len(layers(model, nn.BatchNorm2d)) == len(layers(model, nn.ReLU)) == 6
    assert len(layers(model, nn.MaxPool2d)) == 3
    assert model.num_features == 256


@pytest.mark.parametrize("name", FROM_SCRATCH)
@pytest.mark.parametrize("side", [32, 48, 64])
def test_small_networks_take_images_of_any_size(name: str, side: int):
    model = Backbone(name, False).build(5)
    logits, features = Network(model)(seeded(2, 3, side, side))
    assert logits.shape == (2, 5)
    assert features.shape == (2, model.num_features)
    torch.testing.assert_close(model.get_classifier()(features), logits, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("name", FROM_SCRATCH)
def test_small_networks_are_timm_models(name: str):
    assert timm.is_model(name)
    assert Backbone(name, False).build(0)(seeded(2, 3, 32, 32)).shape == (2, made(name).num_features)
    model = made(name)
    model.reset_classifier(7)
    assert model(seeded(2, 3, 32, 32)).shape == (2, 7)
    config = Backbone(name, False).config()
    assert config["input_size"] == (3, 32, 32)
    assert len(config["mean"]) == len(config["std"]) == 3


def test_a_network_gives_float32_and_the_models_own_logits():
    model = made()
    x = seeded(4, 3, 32, 32)
    logits, features = Network(model)(x)
    assert logits.dtype == features.dtype == torch.float32
    torch.testing.assert_close(logits, model(x), atol=2e-2, rtol=2e-2)


# --- head and teacher -----------------------------------------------------------------------------------------------


def test_a_head_starts_undecided_and_folds_into_the_backbone():
    model = made(n_classes=3)
    x = seeded(6, 3, 32, 32)
    features = model.forward_head(model.forward_features(x), pre_logits=True).detach()
    head = FeatureHead(features.mean(0), features.std(0) + 0.1, 3)
    assert (head(features)[0] == 0).all()
    torch.nn.init.normal_(head.fc.weight, generator=torch.Generator().manual_seed(1))
    torch.nn.init.normal_(head.fc.bias, generator=torch.Generator().manual_seed(2))
    head.fold_into(model.get_classifier())
    torch.testing.assert_close(model(x), head(features)[0], atol=1e-4, rtol=1e-4)


def test_a_heads_standardisation_is_no_parameter_but_is_kept():
    head = FeatureHead(torch.ones(4), torch.full((4,), 2.0), 3)
    assert {name for name, _ in head.named_parameters()} == {"fc.weight", "fc.bias"}
    assert {"mean", "std"} <= head.state_dict().keys()


def test_the_teacher_predicts_in_evaluation_mode_without_gradient():
    student = Network(made())
    teacher = MeanTeacher(student, 0.9)
    teacher.train()
    x = seeded(4, 3, 32, 32)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    logits, features = teacher(x)
    assert not logits.requires_grad
    assert not features.requires_grad
    torch.testing.assert_close(logits, student.eval()(x)[0])
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())


# --- a second network -----------------------------------------------------------------------------------------------


def differing(network: nn.Module, other: nn.Module) -> set[str]:
    """The parameters that are not the same in both."""
    others = dict(other.named_parameters())
    return {name for name, p in network.named_parameters() if not torch.equal(p, others[name])}


def test_the_twin_of_a_network_from_scratch_is_drawn_anew_throughout():
    network = Network(made())
    weights = {name for name, p in network.named_parameters() if p.ndim > 1}
    other = twin(network)
    assert weights <= differing(network, other)
    for name, p in other.named_parameters():
        ours = dict(network.named_parameters())[name]
        assert p.data_ptr() != ours.data_ptr()
        torch.testing.assert_close(p.std(), ours.std(), atol=0.05, rtol=0.5)


def test_the_twin_of_a_pretrained_network_has_another_classifier_on_the_same_weights():
    network = Network(made(), pretrained=True)
    other = twin(network)
    assert differing(network, other) == {"model.fc.weight", "model.fc.bias"}
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(network.buffers(), other.buffers(), strict=True))


def test_the_twin_of_a_head_is_small_but_not_zero():
    head = FeatureHead(torch.ones(100), torch.full((100,), 2.0), 3)
    other = twin(head)
    assert torch.equal(other.mean, head.mean)
    assert torch.equal(other.std, head.std)
    assert differing(head, other) == {"fc.weight", "fc.bias"}
    assert other(seeded(50, 100))[0].abs().max() < 3
    assert (head.fc.weight == 0).all()


def test_twins_differ_from_seed_to_seed_and_are_alike_for_one():
    head, drawn = FeatureHead(torch.zeros(9), torch.ones(9), 3), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(twin(head).fc.weight)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


# --- on disk --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FROM_SCRATCH, "test_resnet"])
def test_a_classifier_comes_back_as_it_was_saved(name: str, tmp_path: Path):
    names, folder = ["Käse", "a b", "猫"], tmp_path / "run of ü" / "classifier"
    model = made(name, 3).to(memory_format=torch.channels_last)
    expected = model(seeded(2, 3, 32, 32))
    save_classifier(model, folder, names, 32)
    assert {"config.json", "model.safetensors"} <= {file.name for file in folder.iterdir()}
    found, found_names = load_classifier(folder)
    assert found_names == names
    assert not found.training
    assert found.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in found.state_dict().items())
    torch.testing.assert_close(found(seeded(2, 3, 32, 32)), expected)


def test_timm_opens_a_saved_classifier(tmp_path: Path):
    model = made("cnn7", 5)
    save_classifier(model, tmp_path, list("abcde"), 32)
    found = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    torch.testing.assert_close(found(seeded(2, 3, 32, 32)), model(seeded(2, 3, 32, 32)))
    assert found.pretrained_cfg["label_names"] == list("abcde")


def test_a_classifier_holds_no_pickle(tmp_path: Path):
    save_classifier(made(), tmp_path, list("abcd"), 32)
    assert not [file for file in tmp_path.iterdir() if file.suffix in (".bin", ".pt", ".pth", ".pkl")]


def test_a_classifier_can_be_the_next_runs_backbone(tmp_path: Path):
    model = made()
    save_classifier(model, tmp_path, list("abcd"), 32)
    backbone = choose_backbone(str(tmp_path), "auto", SMALL)
    assert backbone.pretrained
    for n_classes in (0, 2, 4, 9):
        built = backbone.build(n_classes)
        assert torch.equal(built.state_dict()["body.0.weight"], model.state_dict()["body.0.weight"])


def test_what_is_missing_of_a_classifier_is_named(tmp_path: Path):
    with pytest.raises(CleanwebError, match=r"config\.json"):
        load_classifier(tmp_path)
    save_classifier(made(), tmp_path, list("abcd"), 32)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CleanwebError, match=r"model\.safetensors"):
        load_classifier(tmp_path)


def test_a_model_that_names_no_classes_is_refused_in_words(tmp_path: Path):
    save_classifier(made(), tmp_path, list("abcd"), 32)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["label_names"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CleanwebError, match=r"config\.json"):
        load_classifier(tmp_path)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_damaged_classifier_is_refused_in_words(file: str, tmp_path: Path):
    save_classifier(made(), tmp_path, list("abcd"), 32)
    stored = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(stored[: len(stored) // 2])
    with pytest.raises(CleanwebError, match=str(tmp_path)):
        load_classifier(tmp_path)


# --- which network, and its weights ---------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["auto", "none"])
@pytest.mark.parametrize("name", FROM_SCRATCH)
def test_a_small_network_needs_no_weights(name: str, weights: str):
    assert choose_backbone(name, weights, PUBLISHED) == Backbone(name, False)
    assert choose_backbone("auto", weights, name) == Backbone(name, False)


@pytest.mark.parametrize("name", FROM_SCRATCH)
def test_there_are_no_published_weights_for_a_small_network(name: str):
    with pytest.raises(UsageError, match=name):
        choose_backbone(name, "pretrained", PUBLISHED)


@pytest.mark.parametrize("weights", ["auto", "none", "pretrained"])
def test_an_unknown_name_is_refused_and_a_near_one_shown(weights: str):
    with pytest.raises(UsageError, match=r"'resnet1'.*resnet1\w+"):
        choose_backbone("resnet1", weights, SMALL)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("weights", ["auto", "pretrained"])
def test_an_unknown_tag_is_refused_in_words(weights: str):
    with pytest.raises(UsageError, match=r"resnet50\.mine"):
        choose_backbone("resnet50.mine", weights, SMALL)


def test_weights_none_needs_neither_network_nor_cache(offline: Path):
    assert choose_backbone("resnet18", "none", SMALL) == Backbone("resnet18", False)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", [PUBLISHED, f"timm/{PUBLISHED}", f"hf-hub:timm/{PUBLISHED}"])
def test_offline_the_missing_file_is_named_at_once(name: str):
    started = time.perf_counter()
    with pytest.raises(MachineError) as caught:
        choose_backbone(name, "pretrained", SMALL)
    assert time.perf_counter() - started < 2
    assert f"https://huggingface.co/timm/{PUBLISHED}/resolve/main/model.safetensors" in str(caught.value)
    assert "local-dir:" in str(caught.value)


@pytest.mark.usefixtures("offline")
def test_a_name_without_a_tag_leads_to_the_tagged_file():
    with pytest.raises(MachineError, match=r"huggingface\.co/timm/resnet50\.\w+/resolve/main/model\.safetensors"):
        choose_backbone("resnet50", "pretrained", SMALL)


@pytest.mark.usefixtures("offline")
def test_auto_falls_back_offline_and_says_so(caplog: pytest.LogCaptureFixture):
    backbone = choose_backbone("auto", "auto", PUBLISHED)
    assert (backbone.name, backbone.pretrained) == (SMALL, False)
    assert PUBLISHED in backbone.why
    assert SMALL in backbone.why
    assert backbone.why in caplog.text


@pytest.mark.usefixtures("offline")
def test_weights_that_are_not_on_the_hub_are_no_crash():
    """Some of timm's weights have a URL and no place on the hub."""
    elsewhere = "vit_huge_patch14_gap_224.in1k_ijepa"
    config = timm.get_pretrained_cfg(elsewhere)
    if config is None or config.hf_hub_id:
        pytest.skip("this timm has them on the hub")
    with pytest.raises(MachineError, match=elsewhere):
        choose_backbone(elsewhere, "pretrained", SMALL)
    assert choose_backbone(elsewhere, "auto", SMALL).name == SMALL


def test_weights_in_the_cache_are_found_offline(offline: Path):
    folder = offline / f"models--timm--{PUBLISHED}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "snapshots" / "abc" / "model.safetensors").write_bytes(b"")
    assert choose_backbone(PUBLISHED, "pretrained", SMALL) == Backbone(PUBLISHED, True)


def refuse(address: tuple, timeout: float) -> None:
    raise OSError("no route to host")


def test_without_a_route_the_hub_does_not_answer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr("socket.create_connection", refuse)
    assert not backbone._hub_answers()


def test_behind_a_proxy_only_the_download_can_tell(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"https": "http://proxy:3128"})
    monkeypatch.setattr("socket.create_connection", refuse)
    assert backbone._hub_answers()


@pytest.mark.parametrize("form", ["{}", "local-dir:{}"])
def test_a_folder_must_hold_a_model(form: str, tmp_path: Path):
    with pytest.raises(MachineError, match=r"looked for .*config\.json"):
        choose_backbone(form.format(tmp_path), "auto", SMALL)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(MachineError, match=r"looked for .*model\.safetensors"):
        choose_backbone(form.format(tmp_path), "auto", SMALL)


def test_a_file_of_weights_is_no_backbone(tmp_path: Path):
    file = tmp_path / "weights.safetensors"
    file.touch()
    with pytest.raises(UsageError, match="--weights"):
        choose_backbone(str(file), "auto", SMALL)


def test_weights_from_a_file(tmp_path: Path):
    model, file = made(n_classes=7), tmp_path / "weights.safetensors"
    save_file(model.state_dict(), file)
    built = choose_backbone(SMALL, str(file), PUBLISHED).build(3)
    expected = {key: value for key, value in model.state_dict().items() if not key.startswith("fc.")}
    assert all(torch.equal(value, built.state_dict()[key]) for key, value in expected.items())
    assert built(seeded(2, 3, 32, 32)).shape == (2, 3)


def test_a_weights_file_must_be_there_and_safe(tmp_path: Path):
    with pytest.raises(MachineError, match=r"nowhere\.safetensors"):
        choose_backbone(SMALL, str(tmp_path / "nowhere.safetensors"), SMALL)
    (tmp_path / "model.pth").touch()
    with pytest.raises(UsageError, match=r"only \.safetensors"):
        choose_backbone(SMALL, str(tmp_path / "model.pth"), SMALL)


def test_a_network_that_cannot_be_built_is_one_sentence(tmp_path: Path):
    (tmp_path / "broken.safetensors").write_bytes(b"not weights")
    with pytest.raises(MachineError, match=r"broken\.safetensors"):
        choose_backbone(SMALL, str(tmp_path / "broken.safetensors"), SMALL).build(3)


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="the weights of mobilenetv2_100 are not beside this repository")
def test_a_real_backbone_from_a_folder():
    backbone = choose_backbone(f"local-dir:{WEIGHTS}", "auto", SMALL)
    assert backbone.pretrained
    assert backbone.config()["input_size"] == (3, 224, 224)
    body = backbone.build(0).eval()
    with torch.inference_mode():
        assert body(seeded(1, 3, 64, 64)).shape == (1, 1280)
    stored = load_file(WEIGHTS / "model.safetensors")
    assert torch.equal(body.state_dict()["conv_stem.weight"], stored["conv_stem.weight"])
    assert backbone.build(5).get_classifier().out_features == 5
    scratch = choose_backbone(f"local-dir:{WEIGHTS}", "none", SMALL)
    assert not scratch.pretrained
    assert not torch.equal(scratch.build(5).state_dict()["conv_stem.weight"], stored["conv_stem.weight"])
