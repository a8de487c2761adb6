"""The end of a run: validation on all of the split, samples, the plot, the summary. Done again if it was cut short."""

from typing import Any

from isogloss.durable import write_whole
from isogloss.evaluate.loss import Evaluation
from isogloss.parallel.env import agreed
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
    found = validate(session)
    record_validation(session, metrics, display, found)
    record_samples(session, metrics, display, progress.step)
    if session.ranks.first:
        _write_summary(session, found)
    summary = agreed(folder.summary() if session.ranks.first else None)
    assert summary is not None
    return summary


def _write_summary(session: Session, found: Evaluation) -> None:
    folder, recipe, progress = session.folder, session.recipe, session.progress
    baselines = session.corpus.manifest.baselines
    summary: dict[str, Any] = {
        "name": recipe.name,
        "validation": finite(
            {
                "loss": found.loss,
                "perplexity": found.perplexity,
                "bits_per_byte": found.bits_per_byte,
                "targets": found.n_targets,
                "bytes": session.corpus.validation_text_bytes,
            }
        ),
        "baselines": {"gzip": baselines.gzip_bits_per_byte, "xz": baselines.xz_bits_per_byte},
        "steps": progress.step,
        "skipped_steps": progress.skipped,
        "tokens": progress.tokens,
        "seconds": progress.seconds,
        "tokens_per_second": progress.tokens / progress.seconds if progress.seconds else 0.0,
        "parameters": session.estimate.n_parameters,
        "corpus": session.corpus.manifest.origin,
        "machine": session.machine.as_dict(),
    }
    records = read_metrics(folder.metrics_file)
    samples = [f"--- step {r['step']} ---\n{r['text']}\n" for r in records if r["kind"] == "sample"]
    write_whole(folder.samples_file, "".join(samples).encode())
    plot_loss(records, summary["baselines"], recipe.name, folder.plot_file)
    folder.save_json("summary.json", summary)


def show_results(folder: RunFolder, recipe: Recipe, summary: dict[str, Any], display: Display) -> None:
    """The table of results, where everything is, and what to try next."""
    validation, baselines = summary["validation"], summary["baselines"]
    rows = [("validation loss", "not finite: the run has diverged")]
    if validation["loss"] is not None:
        share = validation["bits_per_byte"] / baselines["xz"]
        # A compressor needs some 100 kB before it has learnt anything; on less, the ratio flatters the model.
        beside = f", {share:.2f} of what xz needs" if validation["bytes"] >= 100_000 else ""
        rows = [
            ("validation loss", f"{validation['loss']:.4f} nats a token"),
            ("validation bits per byte", f"{validation['bits_per_byte']:.4f}{beside}"),
        ]
    rows += [
        ("  gzip -9 on the same bytes", f"{baselines['gzip']:.4f}"),
        ("  xz -9 on the same bytes", f"{baselines['xz']:.4f}"),
        ("parameters", f"{summary['parameters']:,}"),
        ("steps", f"{summary['steps']:,} ({summary['skipped_steps']} skipped)"),
        ("tokens", f"{summary['tokens']:,}"),
        ("time in steps", duration(summary["seconds"])),
        ("tokens a second", f"{summary['tokens_per_second']:,.0f}"),
    ]
    display.show(results_table(rows, title=f"results of {recipe.name}"))
    display.say(
        f"in {folder.path}: summary.json, loss.png, metrics.jsonl, samples.txt, checkpoints/\n"
        "next:\n"
        f"  isogloss generate {folder.path} '{recipe.watch.prompts[0] if recipe.watch.prompts else ''}'\n"
        f"  isogloss eval {folder.path} FILE.txt\n"
        f"  isogloss init plan {folder.recipe_file}\n"
        f"  isogloss train {folder.recipe_file} name={recipe.name}-deeper model.n_layers={recipe.model.n_layers * 2}"
    )
