"""The classifier handed over says what the original says; its card tells how it was made, and obeys no label."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import cleanweb
from cleanweb import manifest, modelcard, modelexport, settings
from cleanweb.errors import MachineError, RunError, UsageError
from cleanweb.pixelcache import centre_square
from cleanweb.schema import TABLES
from tests.test_cli import cleanweb as command_line


@pytest.fixture(scope="module")
def tables(run: Path) -> dict[str, pd.DataFrame]:
    return {name: manifest.read(run, name) for name in TABLES}


@pytest.fixture
def config(run: Path) -> dict:
    return json.loads((run / "classifier" / "config.json").read_text())


def test_the_command_line_offers_every_format() -> None:
    assert tuple(modelexport.WRITE) == settings.MODEL_FORMATS


@pytest.mark.parametrize("format", ["timm", pytest.param("torch-export", marks=pytest.mark.timeout(120))])
def test_a_copy_is_complete_and_says_the_same(format: str, run: Path, config: dict, tmp_path: Path) -> None:
    out = tmp_path / "model"
    assert modelexport.export(run, format, out) <= modelexport.TOLERANCE
    file = {"timm": "model.safetensors", "torch-export": "model.pt2"}[format]
    assert {path.name for path in out.iterdir()} == {file, "config.json", "README.md"}
    assert json.loads((out / "config.json").read_text()) == config
    assert modelcard.USES[format] in (out / "README.md").read_text()
    with pytest.raises(UsageError, match="never overwrites"):
        modelexport.export(run, format, out)


def test_the_command_says_how_far_it_is_where_nobody_wants_json(run: Path, tmp_path: Path) -> None:
    code, _, err = command_line("export-model", "--run", run, "--out", tmp_path / "a")
    assert code == 0
    assert err.startswith("model: 0 of 1")
    assert "model: 1 of 1" in err
    code, out, err = command_line("export-model", "--run", run, "--out", tmp_path / "b", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["out"] == str(tmp_path / "b")


@pytest.mark.timeout(120)
def test_onnx(run: Path, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason='pip install ".[onnx]"')
    pytest.importorskip("onnxscript", reason='pip install ".[onnx]"')
    modelexport.export(run, "onnx", tmp_path / "model")
    session = runtime.InferenceSession(tmp_path / "model" / "model.onnx", providers=["CPUExecutionProvider"])
    model, names = cleanweb.load_classifier(run / "classifier")
    assert json.loads(session.get_modelmeta().custom_metadata_map["label_names"]) == names
    images = torch.rand(7, 3, 32, 32)
    with torch.inference_mode():
        np.testing.assert_allclose(session.run(None, {"images": images.numpy()})[0], model(images), atol=1e-4)


def test_without_onnx_the_message_says_what_to_install(run: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(modelexport.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MachineError, match=r'pip install "cleanweb-data\[onnx\]"'):
        modelexport.export(run, "onnx", tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [1e-3, float("nan")])
def test_a_copy_that_says_something_else_is_not_kept(wrong: float, run: Path, tmp_path: Path, monkeypatch) -> None:
    def spoiled(model, *_):
        return lambda images: model(images) + wrong

    monkeypatch.setitem(modelexport.WRITE, "timm", spoiled)
    with pytest.raises(MachineError, match="differs from the original"):
        modelexport.export(run, "timm", tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_where_there_is_no_classifier(run: Path, tmp_path: Path) -> None:
    with pytest.raises((RunError, MachineError)):
        modelexport.export(tmp_path / "run", "timm", tmp_path / "model")
    with pytest.raises(UsageError, match="choose from timm, onnx, torch-export"):
        modelexport.export(run, "tflite", tmp_path / "model")


def test_timms_own_transform_prepares_images_as_they_were_trained_on(run: Path) -> None:
    from timm.data import create_transform, resolve_model_data_config

    model, _ = cleanweb.load_classifier(run / "classifier")
    pixels = resolve_model_data_config(model)
    side, mean, std = pixels["input_size"][-1], torch.tensor(pixels["mean"]), torch.tensor(pixels["std"])
    noise = np.random.default_rng(0).integers(0, 255, (80, 120, 3), np.uint8)
    picture = Image.fromarray(noise).resize((300, 200), Image.Resampling.BICUBIC)
    ours = (torch.from_numpy(centre_square(picture, side).copy()) / 255 - mean) / std
    theirs = create_transform(**pixels)(picture).permute(1, 2, 0)
    assert (ours - theirs).abs().mean() < 0.05  # reducing_gap and rounding apart


# ------------------------------------------------------------------------------------------------------------ the card


def test_fit_writes_a_card_and_an_export_keeps_it(run: Path, tmp_path: Path) -> None:
    card = (run / "classifier" / "README.md").read_text()
    modelexport.export(run, "timm", tmp_path / "model")
    assert (tmp_path / "model" / "README.md").read_text() == card
    old = tmp_path / "old"
    shutil.copytree(run, old)
    (old / "classifier" / "README.md").unlink()
    modelexport.export(old, "timm", tmp_path / "again")
    assert (tmp_path / "again" / "README.md").read_text() == card


def test_the_cards_figures_are_the_manifests(run: Path, tables: dict, config: dict) -> None:
    card = modelcard.text(config, modelcard.figures(run))
    images = tables["images"]
    for verdict, n in images["verdict"].value_counts().items():
        assert f"{n} {verdict}" in card
    kept = images[images["final_label"].notna() & images["duplicate_of"].isna()]
    assert f"Trained on {len(kept)} pictures" in card
    assert f"{tables['runs']['noise_rate'].iloc[0]:.1%}" in card
    for label, n in kept["final_label"].value_counts().items():
        assert re.search(rf"^\| {label} \| \d+ \| {n} \|", card, re.MULTILINE)
    assert "32 × 32" in card
    assert "No accuracy was measured" in card


def test_the_card_names_no_place_on_this_machine(run: Path, crawl: Path, config: dict) -> None:
    told = modelcard.figures(run)
    asked = json.loads(told.run["settings"]) | {"backbone": f"local-dir:{crawl}/nets/small"}
    card = modelcard.text(config, replace(told, run=told.run | {"settings": json.dumps(asked)}))
    assert str(crawl) not in card
    assert "backbone: small" in card


def test_no_label_is_markdown(run: Path, config: dict) -> None:
    hostile = "<script>x</script>\n# Title | [a](http://b) `c` ![d](e) **f** &amp;"
    told = modelcard.figures(run)
    card = modelcard.text(config, replace(told, classes=[told.classes[0] | {"label": hostile}, *told.classes[1:]]))
    (row,) = [line for line in card.splitlines() if "script" in line]
    assert "<" not in row
    assert len(re.findall(r"(?<!\\)\|", row)) == 5
    assert not re.search(r"(?<!\\)[\[\]`*#!]", row)
    assert card.count("\n# ") == 1


def test_the_head_is_yaml_of_the_hub(run: Path, config: dict) -> None:
    yaml = pytest.importorskip("yaml", reason="it comes with huggingface_hub")
    head = yaml.safe_load(modelcard.text(config, modelcard.figures(run)).split("---\n")[1])
    assert head["library_name"] == "timm"
    assert head["pipeline_tag"] == "image-classification"
