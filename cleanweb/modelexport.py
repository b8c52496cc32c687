"""A run's classifier for other programs: timm's layout, ONNX, torch.export. Each is checked before it is kept.

    out/model.safetensors, out/model.onnx or out/model.pt2
    out/config.json        classes (`label_names`) and preparation (`pretrained_cfg`: size, mean, std, crop)
    out/README.md          the model card

The exported network takes float32 images (n, 3, side, side), prepared as the card says, and gives logits (n, c).
"""

import importlib.util
import io
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from cleanweb import modelcard
from cleanweb.classifier import load_classifier
from cleanweb.drafts import draft
from cleanweb.errors import MachineError, UsageError
from cleanweb.network import TimmModel

TOLERANCE = 1e-4  # of what the copy may say otherwise, as a share of the largest logit, or of 1

Run = Callable[[Tensor], Tensor]


def export(run: Path, format: str, out: Path) -> float:
    """Write the classifier of a run as `format` to the folder `out`; gives the largest difference that was found.

    Raises RunError where there is no classifier, UsageError where something stands at `out`, MachineError where a
    library is missing or the copy does not say what the original says.
    """
    if format not in WRITE:
        raise UsageError(f"unknown format {format!r}; choose from {', '.join(WRITE)}")
    classifier = run / "classifier"
    model, names = load_classifier(classifier)
    side = model.pretrained_cfg["input_size"][-1]
    with draft(out, folder=True) as folder:
        copy = WRITE[format](model, names, classifier, folder)
        difference = max(_difference(model, copy, n, side) for n in (1, 2, 5))
        if not difference <= TOLERANCE:
            raise MachineError(f"The classifier as {format} differs from the original by {difference:.2g} (at most "
                               f"{TOLERANCE:g}), and was not kept. Try another --format.")  # fmt: skip
        shutil.copyfile(classifier / "config.json", folder / "config.json")
        (folder / "README.md").write_text(_card(run, format), encoding="utf-8")
    return difference


def _card(run: Path, format: str) -> str:
    """The card that `fit` wrote, which tells of the labels it was trained on; of an older run, a new one."""
    card = run / "classifier" / "README.md"
    if card.exists():
        return modelcard.for_use(card.read_text(encoding="utf-8"), format)
    config = json.loads((run / "classifier" / "config.json").read_text(encoding="utf-8"))
    return modelcard.text(config, modelcard.figures(run), format)


@torch.inference_mode()
def _difference(model: TimmModel, copy: Run, n: int, side: int) -> float:
    images = torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(n))
    expected = model(images)
    return float((copy(images) - expected).abs().max() / expected.abs().max().clamp(min=1))


def _write_timm(model: TimmModel, names: list[str], classifier: Path, folder: Path) -> Run:
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(classifier / name, folder / name)
    copy = load_classifier(folder)[0]
    (folder / "config.json").unlink()  # it is written for every format
    return copy


def _write_onnx(model: TimmModel, names: list[str], classifier: Path, folder: Path) -> Run:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise MachineError(f'ONNX needs {", ".join(missing)}: pip install "cleanweb-data[onnx]".')
    import onnxruntime

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own insides; the result is checked
        program = torch.onnx.export(
            model, (_example(model),), dynamo=True, input_names=["images"], output_names=["logits"],
            dynamic_shapes=(_ANY_NUMBER,), external_data=False, verbose=False,
        )  # fmt: skip
        assert program is not None, "dynamo=True gives one"
        program.model.metadata_props["label_names"] = json.dumps(names)
        program.save(folder / "model.onnx")
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _write_torch_export(model: TimmModel, names: list[str], classifier: Path, folder: Path) -> Run:
    program = torch.export.export(model, (_example(model),), dynamic_shapes=(_ANY_NUMBER,))
    config = (classifier / "config.json").read_text(encoding="utf-8")
    packed = io.BytesIO()  # where a disk is full, torch's own writer ends the process
    torch.export.save(program, packed, extra_files={"config.json": config})
    (folder / "model.pt2").write_bytes(packed.getbuffer())
    return torch.export.load(folder / "model.pt2").module()


_ANY_NUMBER = {0: torch.export.Dim("n")}  # of images at a time


def _example(model: TimmModel) -> Tensor:
    return torch.zeros(2, *model.pretrained_cfg["input_size"])


WRITE = {"timm": _write_timm, "onnx": _write_onnx, "torch-export": _write_torch_export}
