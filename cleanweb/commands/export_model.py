"""cleanweb export-model: hand over the retrained classifier."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cleanweb.commands import JsonOption, Quiet, RunOption, Verbose
from cleanweb.remote import on_this_machine
from cleanweb.settings import DEFAULT_RUN, MODEL_FORMATS
from cleanweb.terminal import choice, echo_json, showing_progress, words_for_errors
from cleanweb.visible import visible

if TYPE_CHECKING:
    Format = str
else:
    Format = choice("ModelFormat", MODEL_FORMATS)


def export_model(
    format: Annotated[
        Format,
        typer.Option("--format", "-f", help="timm: .safetensors; onnx: needs the extra onnx; torch-export: .pt2."),
    ] = "timm",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="The folder to write, never overwritten. Default: a new name in"
                     " the run folder."),
    ] = None,
    run: RunOption = Path(DEFAULT_RUN),
    as_json: JsonOption = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:  # fmt: skip
    """Hand over the retrained classifier, with its classes, how images are prepared for it, and a model card.

    The copy is compared with the original before it is kept.

    \b
    Examples:
      cleanweb export-model --format onnx --out sports-onnx
      cleanweb export-model --format torch-export
    """
    with words_for_errors(), showing_progress(quiet or as_json) as progress:
        progress("model", 0, 1)  # loading torch and writing ONNX take their time
        from cleanweb import exporting, modelexport

        target = (on_this_machine(out) if out else None) or exporting.new_name(run, ("classifier", str(format)), "")
        difference = modelexport.export(run, str(format), target)
        progress("model", 1, 1)
    if as_json:
        echo_json({"out": str(target), "format": str(format), "largest_difference": difference})
    elif not quiet:
        typer.echo(visible(f"{target}: the classifier as {format}, largest difference {difference:.2g}."))
