"""The end of a run: validation on all of the split, samples, the plot, the summary. Done again if it was cut short."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from isogloss.config.quantity import count
from isogloss.durable import write_whole
from isogloss.evaluate.loss import Evaluation
from isogloss.parallel.first_rank import from_rank_0
from isogloss.recipe import Recipe
from isogloss.report.loss import plot_loss
from isogloss.run.folder import RunFolder
from isogloss.run.session import Session
from isogloss.run.watch import record_samples, record_validation, validate
from isogloss.train.display import Display, duration, results_table
from isogloss.train.metrics import Metrics, finite, read_metrics


def finish(session: Session, metrics: Metrics, display: Display) -> dict[str, Any]:
    """Measure what came out, write ``summary.json`` last, and return it."""
    folder, progress = session.folder, session.progress
    display.say("validating on the whole validation split")
    found, by_source = validate(session)
    record_validation(session, metrics, display, found, by_source)
    record_samples(session, metrics, display, progress.step)
    with session.watchdog.phase("writing the summary"):
        if session.ranks.first:
            metrics.sync()
            _write_summary(session, found, by_source)
        summary = from_rank_0(folder.summary() if session.ranks.first else None)
    assert summary is not None
    return summary


def _write_summary(session: Session, found: Evaluation, by_source: Mapping[str, Evaluation]) -> None:
    folder, recipe, progress = session.folder, session.recipe, session.progress
    baselines = session.corpus.baselines
    n_read = recipe.train.plan().rows_before(progress.step) * recipe.data.seq_len
    records = read_metrics(folder.metrics_file)
    summary: dict[str, Any] = {
        "name": recipe.name,
        "validation": finite(
            {
                "loss": found.loss,
                "perplexity": found.perplexity,
                "bits_per_byte": found.bits_per_byte,
                "targets": found.n_targets,
                "bytes": session.corpus.facts("validation").n_bytes,
            }
        ),
        "baselines": {"gzip": baselines.gzip_bits_per_byte, "xz": baselines.xz_bits_per_byte} if baselines else {},
        "floor": session.corpus.floor,
        "sources": {
            name: finite({"share": share, "loss": by_source[name].loss if name in by_source else None})
            for name, share in session.loader.shares(progress.step + progress.passed_over).items()
        },
        "training": last_loss(records),
        "steps": progress.step,
        "skipped_steps": progress.skipped,
        "tokens": progress.tokens,
        "seconds": progress.seconds,
        "tokens_per_second": n_read / progress.seconds if progress.seconds else 0.0,
        "parameters": session.size.n_parameters,
        "corpus": session.corpus.origin,
        "machine": session.machine.as_dict(),
    }
    samples = [f"--- step {r['step']} ---\n{r['text']}\n" for r in records if r["kind"] == "sample"]
    write_whole(folder.samples_file, "".join(samples).encode())
    plot_loss(records, summary["baselines"], recipe.name, folder.plot_file, floor=session.corpus.floor)
    folder.save_json("summary.json", summary)


def show_results(folder: RunFolder, recipe: Recipe, summary: dict[str, Any], display: Display) -> None:
    """The table of results, where everything is, and what to try next."""
    validation, baselines = summary["validation"], summary["baselines"]
    rows = [("validation loss", "not finite: the run has diverged")]
    if validation["loss"] is not None:
        rows = [("validation loss", f"{validation['loss']:.4f} nats a token")]
        if (floor := summary.get("floor")) is not None:
            rows.append(("  lowest there is", f"{floor:.4f}"))
        if (bits := validation["bits_per_byte"]) is not None:
            # A compressor needs some 100 kB before it has learnt anything; on less, the ratio flatters the model.
            long = baselines and validation["bytes"] >= 100_000
            beside = f", {bits / baselines['xz']:.2f} of what xz needs" if long else ""
            rows.append(("validation bits per byte", f"{bits:.4f}{beside}"))
    for name, source in summary.get("sources", {}).items():
        loss = "" if source["loss"] is None else f", validation loss {source['loss']:.4f}"
        rows.append((f"  {name}", f"{source['share']:.2%} of the tokens{loss}"))
    rows += [(f"  {name} -9 on the same bytes", f"{bits:.4f}") for name, bits in baselines.items()]
    rows += [
        ("parameters", f"{summary['parameters']:,}"),
        ("steps", f"{summary['steps']:,} ({summary['skipped_steps']} skipped)"),
        *_training_loss(summary.get("training")),
        ("targets trained on", f"{summary['tokens']:,}"),
        ("time in steps", duration(summary["seconds"])),
        ("tokens a second", f"{summary['tokens_per_second']:,.0f}"),
    ]
    display.show(results_table(rows, title=f"results of {recipe.name}"))
    display.say(f"in {folder.path}: summary.json, loss.png, metrics.jsonl, samples.txt, checkpoints/")
    display.say("\n  ".join(["next:", *next_commands(folder, recipe)]))


def last_loss(records: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The last line's mean loss, and the steps that it is the mean of; ``None`` if there is no line."""
    lines = [record for record in records if record["kind"] == "train"]
    if not lines:
        return None
    first = lines[-2]["step"] + 1 if len(lines) > 1 else 1
    return {key: lines[-1].get(key) for key in ("loss", "bits_per_byte")} | {"steps": [first, lines[-1]["step"]]}


def _training_loss(found: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """A row, where it is known: summaries of older versions have none."""
    if not found or found["loss"] is None:
        return []
    first, last = found["steps"]
    return [("training loss", f"{found['loss']:.4f}, mean of the last {count(last - first + 1, 'step')}")]


def next_commands(folder: RunFolder, recipe: Recipe) -> list[str]:
    """What may be done with a finished run, as a shell takes it: paths and prompts may have blanks and quotes."""
    path, recipe_file = shlex.quote(str(folder.path)), shlex.quote(str(folder.recipe_file))
    written = [record for record in read_metrics(folder.metrics_file) if record["kind"] == "sample"]
    prompts = recipe.watch.prompts or [record["prompt"] for record in written]
    prompt = shlex.quote(prompts[0] if prompts else "")
    return [
        f"isogloss generate {path} {prompt}",
        f"isogloss eval {path} FILE.txt",
        f"isogloss init plan {recipe_file}",
        f"isogloss train {recipe_file} name={recipe.name}-deeper model.n_layers={recipe.model.n_layers * 2}",
    ]
