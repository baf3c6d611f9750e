"""`raycap models`: list, show, compare, best and prune."""

import json
import sys
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console

from raycap import runs, storage
from raycap.runs.comparing import CompareOptions

WIDE = 200  # columns of a table that goes into a file or a pipe
DEFAULTS = CompareOptions()
Json = Annotated[bool, Parameter(name="--json", negative="")]
models = App(name="models", result_action="return_value")


def screen() -> Console:
    """Stdout, wide enough for a table where it is no terminal."""
    return Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else WIDE)


@models.command(name="list")
def list_runs(place: str = "runs", /, *, as_json: Json = False) -> None:
    """List the runs below a folder: the best checkpoint of each, its metrics, and what its checkpoints take.

    A checkpoint that lies by itself (copied out of a run) is listed too.

    Parameters
    ----------
    place
        A folder or URI, searched all the way down.
    as_json
        Print JSON.
    """
    found = runs.find_runs(place)
    if as_json:
        print(json.dumps(runs.describe_runs(found), indent=2))
    elif found:
        screen().print(runs.runs_table(found, place=storage.absolute(place)))
    else:
        print(f"no run below {place}")


@models.command
def show(path: str, /, *, as_json: Json = False) -> None:
    """Show everything that a checkpoint's manifest says; of a run that of its best, and which checkpoint is which.

    Parameters
    ----------
    path
        A run folder, RUN/best-loss, RUN/last, a checkpoint folder, or hf://owner/name.
    as_json
        Print the manifest as JSON.
    """
    print(runs.show(path, as_json=as_json).rstrip("\n"))


@models.command
def compare(
    one: str, other: str, /, *, options: Annotated[CompareOptions, Parameter(name="*")] = DEFAULTS
) -> None:
    """Compare two runs or checkpoints: what they are, what they score, and whether one is really better.

    Where both were evaluated on the same split (`raycap evaluate`), their captions are scored again and the images
    resampled (paired bootstrap). --images FOLDER writes a page of photos with both captions and prints its path: the
    evaluations' captions where the folder holds evaluated photos, else captions made now.

    Parameters
    ----------
    one
        A run folder (its best checkpoint), RUN/best-loss, RUN/last, or a checkpoint folder.
    other
        Likewise; differences are the first minus this one.
    """
    from raycap.runs import comparing, photos

    compared = comparing.compare(one, other, options=options)
    if options.as_json:
        print(json.dumps(comparing.as_plain(compared), indent=2))
    else:
        console = screen()
        console.print(comparing.overview_table(compared))
        if table := comparing.paired_table(compared):
            console.print(table)
        if compared.pair:
            console.print(comparing.conditions(compared.pair), style="dim", soft_wrap=True)
        for sentence in comparing.sentences(compared):
            console.print(sentence, soft_wrap=True)
    if options.images:
        page = photos.write_page(compared, options)
        print(page, file=sys.stderr if options.as_json else sys.stdout)


@models.command
def best(place: str, /, *, by: str = "cider_d") -> None:
    """Print the path of the best checkpoint below a folder, by the metrics that training measured.

    Runs compare only where they were validated on the same images.

    Parameters
    ----------
    place
        A folder or URI of runs, or a run.
    by
        A metric (cider_d, val_loss, ...), weighted:cider_d=1,bleu_4=0.5, cider-centred (the best CIDEr-D among those
        whose other metrics lie at most 5 % below their best; :0.02 sets that share, :bleu_4=0.02,rouge_l=0.01 names
        what is held), meteor-centred, pareto (from the oldest on to the next one for which no metric falls), or
        lexicographic:cider_d=0.02,val_loss (the first metric decides but for those within 2 % of its best).
    """
    choice = runs.choose_best(place, by=by)
    print(f"{choice.name}: {choice.reason}", file=sys.stderr)
    print(choice.name)


@models.command
def prune(
    run: str,
    /,
    *,
    keep: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    dry_run: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Remove the checkpoints of a run that are neither its best (by metric, by loss) nor its last.

    Asks nothing and prints what it removes. Removes nothing where it finds anything that is not raycap's, or a damaged
    checkpoint. The run must not be training.

    Parameters
    ----------
    run
        A run folder or URI.
    keep
        Keep these too: a step (876), or the best by a strategy (meteor-centred); may be given several times.
    dry_run
        Only print.
    """
    plan = runs.plan_pruning(run, keep=keep)
    for name, reasons in plan.kept.items():
        print(f"keeping {name} ({', '.join(reasons)})")
    for name, size in plan.doomed.items():
        print(f"{'would remove' if dry_run else 'removing'} {name} ({runs.readable_size(size)})", flush=True)
    if not dry_run:
        plan.carry_out()
    total = runs.readable_size(sum(plan.doomed.values()))
    print(f"{len(plan.doomed)} of {len(plan.kept) + len(plan.doomed)} checkpoints, {total}")
