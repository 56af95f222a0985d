"""Rows from example sentences against trained rows, for entities that training never saw.

    python benchmarks/entity_rows.py DUMP.xml.xz --language el [--minutes 6]

The encoder of the embedded checkpoint gets a masked entity head and an entity table for the titles
that a Wikipedia dump links to most, and is trained to tell which one a masked mention is (full
softmax, cross-entropy). A fifth of the titles is held out: their mentions are in no training step,
and they have no row. Some mentions of all titles are kept for the test, and `--examples` of each
title for rows that are computed from examples, as `kb add` does.

The test: which of 30 titles is it? One is right, the others are drawn from titles of the same kind,
with trained or with computed rows. Chance is 3.3 %. Trained titles are tested with both kinds.
"""

from __future__ import annotations

import itertools
import random
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import typer

from spacy_mluke.checkpoint import Checkpoint, load_checkpoint
from spacy_mluke.encoder import init_weights
from spacy_mluke.heads import MLuke
from spacy_mluke.kb.dumps import XmlDump
from spacy_mluke.kb.records import Skips
from spacy_mluke.kb.wikitext import Namespaces, parse_page
from spacy_mluke.packs import Pack
from spacy_mluke.windows import Reading, Window, pack_windows

Arg, Opt = typer.Argument, typer.Option
CANDIDATES = 30
Mention = tuple[int, int]  # reading, mention in it


def main(
    dump: Annotated[Path, Arg(help="pages-articles of a Wikipedia")],
    language: Annotated[str, Opt(help="Its language")],
    minutes: Annotated[float, Opt(help="Of training")] = 6.0,
    least: Annotated[int, Opt(help="Links that a title must have")] = 12,
    examples: Annotated[int, Opt(help="Examples for a computed row")] = 5,
    seed: Annotated[int, Opt()] = 0,
) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    checkpoint = load_checkpoint("embedded")
    readings, titles = read(dump, language, checkpoint, least)
    mentions: dict[str, list[Mention]] = defaultdict(list)
    for i, of_reading in enumerate(titles):
        for j, title in enumerate(of_reading):
            mentions[title].append((i, j))
    names = sorted(mentions)
    rng.shuffle(names)
    held_out, trained = names[: len(names) // 5], names[len(names) // 5 :]
    for listed in mentions.values():
        rng.shuffle(listed)
    model = make_model(checkpoint, len(trained))
    number = {title: i for i, title in enumerate(trained)}
    kept = {m for listed in mentions.values() for m in listed[: examples + 3]}
    steps = train(model, checkpoint, readings, titles, number, kept, minutes, rng)
    print(
        f"{len(readings)} texts, {len(trained)} titles trained in {steps} steps, "
        f"{len(held_out)} held out"
    )
    states = {
        title: encode(model, checkpoint, readings, mentions[title][: examples + 3])
        for title in names
    }
    table = model.luke.entity_table.rows.detach()
    norm = table.norm(dim=1).median()
    computed = {
        title: F.normalize(x[:examples].mean(0), dim=0) * norm for title, x in states.items()
    }
    rows = {title: table[i] for title, i in number.items()}
    for kind, chosen, own in (
        ("trained titles, trained rows", trained, rows),
        ("trained titles, computed rows", trained, computed),
        ("held-out titles, computed rows", held_out, computed),
    ):
        right = total = 0
        for title in chosen:
            others = rng.sample([t for t in chosen if t != title], CANDIDATES - 1)
            candidates = torch.stack([own[t] for t in (title, *others)])
            for x in states[title][examples:]:
                right += int((candidates @ x).argmax()) == 0
                total += 1
        print(f"{kind}: {right / total:.1%} of {total} mentions")


def read(
    dump: Path, language: str, checkpoint: Checkpoint, least: int
) -> tuple[list[Reading], list[list[str]]]:
    """Texts of one window each, with links to titles that have enough of them."""
    pages = XmlDump(dump, Skips())
    texts = []
    counts: dict[str, int] = defaultdict(int)
    for page in pages:
        if page.redirect is not None:
            continue
        namespaces = Namespaces.make(language, pages.names, first_letter=pages.first_letter)
        parsed = parse_page(page.text, namespaces)
        at = 0
        for paragraph in parsed.text.split("\n"):
            links = [
                (a - at, b - at, title)
                for a, b, title in parsed.links
                if at <= a and b <= at + len(paragraph)
            ]
            at += len(paragraph) + 1
            if links:
                texts.append((paragraph, links))
                for _, _, title in links:
                    counts[title] += 1
    readings, titles = [], []
    for text, links in texts:
        links = [link for link in links if counts[link[2]] >= least][:32]
        pieces = checkpoint.pieces.encode(text)
        if not links or len(pieces) > checkpoint.config.max_pieces:
            continue
        first, last = pieces.align(
            np.array([a for a, _, _ in links]), np.array([b for _, b, _ in links])
        )
        readings.append(Reading(pieces, first, last))
        titles.append([title for _, _, title in links])
    return readings, titles


def make_model(checkpoint: Checkpoint, entities: int) -> MLuke:
    """The embedded encoder with a fresh masked entity head, and a table of titles."""
    config = replace(
        checkpoint.config, architectures=("LukeForMaskedLM",), entity_vocab_size=entities
    )
    model = MLuke(config)
    init_weights(model, config.initializer_range)
    state = {
        key: value
        for key, value in checkpoint.model.luke.state_dict().items()
        if "entity_embeddings.entity_embeddings" not in key
    }
    model.luke.load_state_dict(state, strict=False)
    return model


def encode(
    model: MLuke,
    checkpoint: Checkpoint,
    readings: Sequence[Reading],
    chosen: Sequence[Mention],
) -> torch.Tensor:
    """What the head compares with the table, for mentions that are masked, [n, D]; those of one
    text, if they follow each other, in one pass."""
    head = model.entity_predictions
    assert head is not None
    windows, at = [], 0
    for i, of_text in itertools.groupby(chosen, key=itemgetter(0)):
        mentions = np.array([j for _, j in of_text])
        windows.append((Window(i, 0, len(readings[i].pieces), mentions), at))
        at += len(mentions)
    first = {id(window): at for window, at in windows}
    masks = [np.full(len(reading.first), -1) for reading in readings]
    order, parts = [], []
    with torch.set_grad_enabled(model.training):
        for group, pack in pack_windows(
            [window for window, _ in windows], readings, checkpoint.pieces, 0, entities=masks,
            max_mention_length=30, budget=2048,
        ):  # fmt: skip
            parts.append(head.transform(run_masked(model, pack)))
            order += [first[id(w)] + k for w in group for k in range(len(w.mentions))]
    back = torch.from_numpy(np.argsort(order))
    return torch.cat(parts)[back]


def run_masked(model: MLuke, pack: Pack) -> torch.Tensor:
    """States of entities [E, H] that are read without a row: their place alone."""
    table = model.luke.entity_table
    held = table.weight
    assert held is not None
    table.weight = torch.nn.Parameter(torch.zeros_like(held), requires_grad=False)
    try:
        states: torch.Tensor = model(pack)[1]
    finally:
        table.weight = held
    return states


def train(
    model: MLuke,
    checkpoint: Checkpoint,
    readings: Sequence[Reading],
    titles: Sequence[Sequence[str]],
    number: Mapping[str, int],
    kept: set[Mention],
    minutes: float,
    rng: random.Random,
) -> int:
    """RETURNS: the number of steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    pool = []
    for i, of_reading in enumerate(titles):
        of_text = [
            (i, j) for j, title in enumerate(of_reading) if title in number and (i, j) not in kept
        ]
        pool += [of_text] if of_text else []
    head = model.entity_predictions
    assert head is not None
    end, step = time.time() + minutes * 60, 0
    model.train()
    total = minutes * 60
    while time.time() < end:
        left = (end - time.time()) / total
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(left, (step + 1) / 50)
        chosen = [m for of_text in rng.sample(pool, min(24, len(pool))) for m in of_text]
        x = encode(model, checkpoint, readings, chosen)
        logits = F.linear(x, model.luke.entity_table.rows, head.bias)
        wanted = torch.tensor([number[titles[i][j]] for i, j in chosen])
        loss = F.cross_entropy(logits, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.2f}")
    model.eval()
    return step


if __name__ == "__main__":
    torch.set_num_threads(1)
    typer.run(main)
