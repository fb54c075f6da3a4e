"""The summary line of a finished stage."""

from delrec_lite.pipeline.stage import FinishedStage

TITLES = {
    "prepare": "prepare",
    "text": "item text",
    "teacher": "teacher",
    "distill": "stage 1 (distil)",
    "finetune": "stage 2 (fine-tune)",
    "export": "export",
}


SOURCES = {
    "rows": "the base's token rows",
    "states": "the base's hidden states",
    "encoder": "a sentence encoder",
    "encoder+rows": "a sentence encoder and the base's token rows",
    "file": "your own vectors",
}


def summarise(stage: FinishedStage) -> str:
    """A stage's figures as one line of text."""
    r = stage.result
    in_precision = f" in {r['precision']}" if "precision" in r else ""
    if stage.name == "prepare":
        return f"{r['users']} users, {r['items']} items, {r['interactions']} interactions"
    if stage.name == "text":
        return f"{r['width']} features of each item, from {SOURCES[r['source']]}"
    if stage.name == "teacher":
        return "; ".join(
            f"{kind} validation NDCG@10 {m['ndcg@10']:.4f}, HR@10 {m['hr@10']:.3f}"
            for kind, m in r.items()
            if kind != "shipped"
        )
    if stage.name == "distill":
        return (
            f"of {r['candidates']} candidates the LLM chooses the teacher's first for "
            f"{r['trained']['agreement']:.1%} of {r['users']} validation histories; "
            f"{r['untrained']['agreement']:.1%} with the untrained soft prompt, "
            f"{r['written']['agreement']:.1%} with a written one, {1 / r['candidates']:.1%} by chance{in_precision}"
        )
    if stage.name == "finetune":
        best = f", best at {r['best_step']} (validation NDCG@10 among candidates {r['valid_ndcg']:.4f})"
        chosen = best if r["best_step"] else ""
        return f"{r['steps']} steps{in_precision}, loss {r['loss']:.3f} nats an item at the end{chosen}"
    if stage.name == "export":
        parity = r["parity"]
        return (
            f"{r['quant']}, {r['bytes'] / 1e6:.0f} MB, scores correlate {parity['score_correlation']:.4f} with the "
            f"trained model's{in_precision}, {parity['top10_overlap']:.0%} of the first ten the same"
        )
    return ""
