"""flawscribe bench"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from service.commands.outputs import writable
from service.commands.train import require_torch
from service.errors import BadRequest
from service.settings import load_settings

bench = typer.Typer(
    name="bench",
    no_args_is_help=True,
    help="""Measure this machine: the network, the service around it, training, memory.

    Each prints JSON to standard output (or into --json FILE) and a table for people to standard error. What is
    compared runs in turns in one run, so that ratios hold on a machine that has other work too.
    """,
)
Json = Annotated[
    Path | None,
    typer.Option("--json", callback=writable, help="File for the JSON; else it goes to standard output."),
]
Folder = Annotated[Path | None, typer.Option(help="A bundle's folder (default: the default model's).")]


@bench.command()
def network(
    bundle: Folder = None,
    json_file: Json = None,
    rounds: Annotated[
        int, typer.Option(min=3, help="Runs of each form at each batch; of fewer than 100 the slowest is the p99.")
    ] = 20,
    provider: Annotated[str | None, typer.Option(help="auto, cpu or cuda (default: FLAWSCRIBE_PROVIDER).")] = None,
    threads: Annotated[int | None, typer.Option(min=0, help="Threads of a run on the CPU; 0: all allowed.")] = None,
    references: Annotated[bool, typer.Option(help="Run PyTorch and OpenVINO too, where installed.")] = True,
) -> None:
    """Time of the network alone: every form of a bundle at every batch it is served with.

    Beside them, where they are installed, the same detector in its layers as published in PyTorch (eager), and OpenVINO.
    `gflop` is of one window; `ratio_to_float32` says how many times faster a row is than the bundle's float32 form in ONNX
    Runtime at the same batch for the same outputs. Examples:

        flawscribe bench network

        flawscribe bench network --bundle models/bracket/2 --json network.json
    """
    from service.bench import network as measured  # noqa: PLC0415 - nobody else pays for what it imports

    settings = load_settings(provider=provider, threads=threads)
    rows = measured.measure(
        bundle or _default_bundle(),
        provider=settings.provider,
        threads=settings.threads,
        rounds=rounds,
        beside=references,
    )
    _tell([asdict(row) for row in rows], json_file)


@bench.command()
def service(
    bundle: Folder = None,
    json_file: Json = None,
    url: Annotated[str | None, typer.Option(help="A service that runs already; else one is started here.")] = None,
    key: Annotated[str | None, typer.Option(help="API key for --url.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Picture to post (default: the bundle's golden one).")] = None,
    clients: Annotated[list[int], typer.Option(min=1, help="Clients at once; may be repeated.")] = [1, 8],  # noqa: B006
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of each load.")] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of load and network alone.")] = 4,
) -> None:
    """The service around the network, over real sockets, by clients in processes of their own.

    Idle: what is added to the network's time, as the service is set up, without a record, and for raw RGB. Closed loop:
    `service_over_network` is the time a picture takes over what it takes the network alone, measured in turns. Open loop:
    arrivals at half of the measured capacity up to four times it, where what is not admitted must be refused (429). Examples:

        flawscribe bench service --json service.json

        flawscribe bench service --url http://host:8000 --key KEY --picture part.jpg --clients 1 --clients 8 --clients 32
    """
    from service.bench import service as measured  # noqa: PLC0415

    headers = {"authorization": f"Bearer {key}"} if key is not None else {}
    result = measured.measure(
        bundle or _default_bundle(),
        load_settings(),
        url=url,
        headers=headers,
        picture=picture,
        clients=clients,
        seconds=seconds,
        rounds=rounds,
    )
    _tell(measured.rows(result), json_file, result)


@bench.command()
def train(
    json_file: Json = None,
    rounds: Annotated[int, typer.Option(min=3, help="Steps of each way.")] = 10,
    size: Annotated[str, typer.Option(help="small or medium: the network's size.")] = "small",
) -> None:
    """One training step of the default and the paper's recipe, beside the reference implementation's way.

    That way decodes every picture anew, runs the teacher on it at every step, and works in float32. `share_of_limit`: the
    arithmetic of a step over what the processor does in a large matrix product; `profile` in the JSON: where a step's time
    goes. Example:

        flawscribe bench train --json train.json
    """
    require_torch()
    from service.bench import train as measured  # noqa: PLC0415
    from service.training.network import PDN_SIZES  # noqa: PLC0415

    if size not in PDN_SIZES:
        raise BadRequest(f"--size {size}: must be one of {', '.join(PDN_SIZES)}")
    result = measured.measure(rounds=rounds, size=next(known for known in PDN_SIZES if known == size))
    _tell(result["rows"], json_file, result)


@bench.command()
def memory(
    bundle: Folder = None,
    json_file: Json = None,
    cases: Annotated[list[int], typer.Option(min=1, help="Reviewed cases; may be repeated.")] = [1000, 10000, 100000],  # noqa: B006
    bundles: Annotated[int, typer.Option(min=0, help="Models in one service; 0: leave that out.")] = 50,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of each load.")] = 20,
) -> None:
    """Recall among reviewed cases, and many models in one service: memory, cold starts, fairness.

    The models are copies of one bundle. One client of one model is timed alone, then while another model is flooded. Examples:

        flawscribe bench memory --json memory.json

        flawscribe bench memory --cases 1000000 --bundles 0
    """
    from service.bench import memory as measured  # noqa: PLC0415

    folder = (bundle or _default_bundle()) if bundles else None
    result = measured.measure(folder, load_settings(), cases=cases, count=bundles, seconds=seconds)
    models = result["models"]
    _tell(result["cases"], json_file, result)
    if models is not None:
        typer.echo(table([{"figure": name, "value": value} for name, value in models.items()]), err=True)


def _default_bundle() -> Path:
    """The folder of the model that answers when none is named. Raises BadRequest when there is none."""
    from service.bundle.store import EngineOptions, Store  # noqa: PLC0415

    settings = load_settings()
    store = Store(settings.models_dir, EngineOptions())
    names = store.names()
    name = settings.model or (names[0] if len(names) == 1 else "polka-dot")
    version = store.active_version(name) if name in names else None
    if version is None:
        raise BadRequest(f"no model {name!r} in service in {settings.models_dir}: name a bundle's folder with --bundle")
    return settings.models_dir / name / str(version)


def _tell(rows: Sequence[dict[str, Any]], file: Path | None, document: Any = None) -> None:
    """The rows as a table for people, and `document` (or the rows themselves) as JSON."""
    typer.echo(table(rows), err=True)
    text = json.dumps(rows if document is None else document, indent=1) + "\n"
    if file is None:
        sys.stdout.write(text)
    else:
        file.write_text(text)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in columns, words to the left and numbers to the right."""
    if not rows:
        return "(nothing was measured)"
    columns = {name: [_shown(row.get(name)) for row in rows] for name in rows[0]}
    lines = []
    for index in range(-1, len(rows)):
        cells = []
        for name, shown in columns.items():
            width = max(len(name), *map(len, shown))
            cell = name if index < 0 else shown[index]
            cells.append(cell.ljust(width) if isinstance(rows[0][name], str) else cell.rjust(width))
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.add_typer(bench)
