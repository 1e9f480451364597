"""flawscribe teacher import | pretrain | pack | energies | list"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.commands.outputs import require_file, require_folder, writable_in_new_folder
from service.commands.train import require_torch
from service.errors import BadRequest

teachers = typer.Typer(help="Teachers: the pretrained networks whose features a model learns.", no_args_is_help=True)
_DIRECTORY = Path("models/teachers")
_Data = Annotated[str, typer.Option(help="The pictures and their licences, for the card.")]
_Licence = Annotated[str, typer.Option(help="The licence of the weights, for the card.")]


@teachers.command("import")
def take(
    file: Annotated[Path, typer.Argument(help="teacher_small.pth, teacher_medium.pth or pretrained_teacher_*.pth.")],
    name: Annotated[str, typer.Option(help="Name to train with: --teacher NAME.")],
    data: _Data = "",
    licence: _Licence = "",
    directory: Annotated[Path, typer.Option(help="Folder of teachers.")] = _DIRECTORY,
) -> None:
    """Take published weights of nelson1425/EfficientAD or anomalib.

    Example:

    flawscribe teacher import teacher_medium.pth --name imagenet-medium --data "ImageNet" --licence "of ImageNet: non-commercial"
    """
    require_torch()
    from service.training.teacher import import_teacher  # noqa: PLC0415

    typer.echo(f"{import_teacher(file, name, directory, _told(data, licence))} written")


@teachers.command("list")
def list_all(directory: Annotated[Path, typer.Option(help="Folder of teachers.")] = _DIRECTORY) -> None:
    """List the teachers at hand.

    Example: flawscribe teacher list
    """
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        typer.echo(f"no teacher in {directory.resolve()}", err=True)
    for file in files:
        typer.echo(file.stem)


@teachers.command("pretrain")
def learn(
    folder: Annotated[list[Path], typer.Option(help="Searched for pictures of any kind; may be repeated.")],
    checkpoint: Annotated[
        Path,
        typer.Option(
            callback=writable_in_new_folder, help="Written as it goes; the same command again goes on from it."
        ),
    ],
    name: Annotated[str, typer.Option(help="Write the teacher under this name at the end.")] = "",
    size: Annotated[str, typer.Option(help="PDN: small or medium.")] = "small",
    steps: Annotated[int, typer.Option(min=1, help="Steps of --batch crops.")] = 3000,
    batch: Annotated[int, typer.Option(min=2, help="Crops of a step.")] = 16,
    crop: Annotated[int, typer.Option(min=45, help="Side of a crop in px.")] = 96,
    positions: Annotated[int, typer.Option(min=2, help="Places in each crop that are to be found again.")] = 64,
    generated: Annotated[int, typer.Option(min=0, help="Generated textures added to the pictures.")] = 3000,
    start_from: Annotated[Path | None, typer.Option(help="Checkpoint of a run, or a teacher, to go on from.")] = None,
    distil: Annotated[
        Path | None,
        typer.Option(help="A teacher's weights file, whose features are learned in place of finding places again."),
    ] = None,
    learning_rate: Annotated[float, typer.Option(min=0, help="Highest learning rate of the one cycle.")] = 1e-3,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 100,
    parts_mb: Annotated[
        float | None,
        typer.Option(
            min=0.1, help="Keep the checkpoint in files of at most so many MiB, the moments in half the bytes."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes that draw the crops; unset: one a core with a GPU, a thread without."),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed draws the same crops.")] = 0,
    data: _Data = "",
    licence: _Licence = "",
    directory: Annotated[Path, typer.Option(help="Folder of teachers.")] = _DIRECTORY,
) -> None:
    """Train a teacher from pictures without labels, on a GPU where there is one.

    Examples:

    flawscribe teacher pretrain --folder photos --checkpoint runs/teacher.pt --name own --data "our photos" --licence "ours"

    flawscribe teacher pretrain --folder photos --checkpoint runs/large.pt --size medium --batch 256 --steps 6000 --parts-mb 15

    flawscribe teacher pretrain --folder photos --checkpoint runs/cheap.pt --distil models/teachers/large.safetensors --name cheap
    """
    require_torch()
    from tqdm import tqdm  # noqa: PLC0415

    from service.training.network import PDN_SIZES  # noqa: PLC0415
    from service.training.pretrain import export_teacher, pretrain  # noqa: PLC0415
    from service.training.teacher_checkpoint import Checkpoint  # noqa: PLC0415
    from service.training.teacher_run import PretrainSettings  # noqa: PLC0415

    if size not in PDN_SIZES:
        raise BadRequest(f"--size is {' or '.join(PDN_SIZES)}, not {size!r}")
    if name:
        require_file(directory / f"{name}.safetensors", makes_folder=True)
    settings = PretrainSettings(
        folders=tuple(str(each) for each in folder),
        size=size,
        generated=generated,
        steps=steps,
        batch=batch,
        crop=crop,
        positions=positions,
        seed=seed,
        save_every=save_every,
        learning_rate=learning_rate,
        start_from=str(start_from) if start_from else None,
        distil=str(distil) if distil else None,
    )
    kept = Checkpoint(checkpoint, int(parts_mb * 2**20) if parts_mb else None)
    with tqdm(total=steps, unit="step") as bar:

        def show(step: int, _: int, loss: float) -> None:
            bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            bar.update(step - bar.n)

        pretrain(settings, kept, show, workers)
    if name:
        typer.echo(f"{export_teacher(checkpoint, name, directory, _told(data, licence))} written")


@teachers.command("pack")
def pack(
    folder: Annotated[Path, typer.Argument(help="Searched for pictures of any kind.")],
    out: Annotated[Path, typer.Argument(help="Folder to make; must be empty or new.")],
    part_mb: Annotated[
        float, typer.Option(min=0.1, help="Most MiB of each of the folders part00, part01, … in it.")
    ] = 60,
) -> None:
    """Copy pictures as pre-training keeps them, 288 px high or wide, in folders small enough to be carried.

    Example: flawscribe teacher pack photos /tmp/packed --part-mb 60
    """
    require_torch()
    from service.training.pack import pack_pictures  # noqa: PLC0415

    require_folder(out)
    parts, pictures = pack_pictures(folder, out, int(part_mb * 2**20))
    typer.echo(f"{pictures} pictures in {parts} parts in {out}")


@teachers.command("energies")
def make_by_hand(
    folder: Annotated[list[Path], typer.Option(help="Searched for pictures of any kind; may be repeated.")],
    name: Annotated[str, typer.Option(help="Name to train with: --teacher NAME.")],
    generated: Annotated[int, typer.Option(min=0, help="Generated textures added to the pictures.")] = 1500,
    seed: Annotated[int, typer.Option(help="The same seed draws the same crops.")] = 0,
    data: _Data = "",
    licence: _Licence = "",
    directory: Annotated[Path, typer.Option(help="Folder of teachers.")] = _DIRECTORY,
) -> None:
    """Make a teacher of local energies, whose filters are set and not learned: a minute.

    Example: flawscribe teacher energies --folder photos --name own-energies --data "our photos" --licence "ours"
    """
    require_torch()
    from service.training.energies import whitened_on  # noqa: PLC0415
    from service.training.teacher import save_teacher  # noqa: PLC0415
    from service.training.teacher_views import load_pictures  # noqa: PLC0415

    require_file(directory / f"{name}.safetensors", makes_folder=True)
    network = whitened_on(load_pictures([str(each) for each in folder], generated, seed), seed)
    recipe = {
        "method": "local energies of Gabor filters, blobs and means, whitened on the pictures (service/training/energies.py)",
        "folders": [each.name for each in folder],
        "generated": generated,
        "seed": seed,
    }
    card = {"recipe": recipe, "steps": 0, **_told(data, licence)}
    typer.echo(f"{save_teacher(network, name, directory, card)} written")


def _told(data: str, licence: str) -> dict[str, str]:
    """What only people know of a teacher, as its card has it."""
    return {"data": data or "not told", "licence": licence or "not told"}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(teachers, name="teacher")
