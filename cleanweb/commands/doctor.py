"""cleanweb doctor: what is wrong with this machine."""

import typer

from cleanweb.commands import JsonOption
from cleanweb.terminal import echo_json, plain, words_for_errors


def doctor(as_json: JsonOption = False) -> None:
    """Check the machine: libraries that fit each other, devices, decoders, weights, disk."""
    with words_for_errors():
        from dataclasses import asdict

        from cleanweb.doctor import examine

        findings = examine()
    if as_json:
        echo_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            sign = {True: "ok  ", False: "FAIL", None: "note"}[finding.ok]
            advice = f"\n      {finding.advice}" * bool(finding.advice)
            typer.echo(plain(f"{sign}  {finding.name}: {finding.found}{advice}"))
    raise typer.Exit(5 if any(finding.ok is False for finding in findings) else 0)
