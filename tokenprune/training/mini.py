"""Train and pack the small labeler that ships with the package.

    python -m tokenprune.training.mini fit --out RUN
    python -m tokenprune.training.mini pack RUN --out FOLDER
    python -m tokenprune.training.mini rank FOLDER
    python -m tokenprune.training.mini fuse FOLDER

``fit`` reads the sets of the folder in TOKENPRUNE_DATA (or --data), or files of one's own (--file), and goes
on from the last evaluation where RUN was stopped; ``pack`` writes a folder that `Labeler.load` reads;
``rank`` fits the rank head of such a folder to lists of passages, and ``fuse`` then what the rank is made of
besides it. About an hour for 1,000 steps of ``fit`` on 2 cores, half for ``rank``, a quarter for ``fuse``.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokenprune.errors import ConfigError, TokenPruneError
from tokenprune.folders import whole_file
from tokenprune.training.mixture import MIXTURE, OWN, check
from tokenprune.training.sets import SETS, Split, data_folder, load, load_file, split

if TYPE_CHECKING:
    from tokenprune.models.labeler import Labeler
    from tokenprune.models.labeler.mini_network import MiniNetwork
    from tokenprune.training.windows import WindowMaker

START = "minilm-l6"
MAX_LENGTH = 256  # tokens of a window in training; the encoder we start from was trained on as many
_ROLES = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def reader_of(folder: Path, max_length: int) -> WindowMaker:
    """Read questions with the tokenizer of a folder, in the frame of `models.labeler.mini`."""
    from tokenizers import Tokenizer

    from tokenprune.models.labeler.mini import frame_of
    from tokenprune.models.labeler.text import TextReader
    from tokenprune.training.windows import WindowMaker

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    vocabulary = tokenizer.get_vocab()
    if lost := [token for token in _ROLES.values() if token not in vocabulary]:
        raise ConfigError(f"the tokenizer of {folder} has no {', '.join(lost)}")
    ids = {role: vocabulary[token] for role, token in _ROLES.items()}
    reader = TextReader(tokenizer, ids["pad_token"], ids["unk_token"])
    return WindowMaker(reader, frame_of(ids["cls_token"], ids["sep_token"]), max_length)


def start(maker: WindowMaker, texts: list[str]) -> MiniNetwork:
    """Return the network before training: the bi-encoder's weights, and the rarity of words in the texts."""
    from safetensors.torch import load_file

    from tokenprune.models.catalog import model_path
    from tokenprune.models.labeler.mini_layer import MiniConfig
    from tokenprune.models.labeler.mini_start import from_bert
    from tokenprune.training.windows import rarity

    config = MiniConfig()
    network = from_bert(load_file(Path(model_path(START)) / "model.safetensors"), config)
    network.idf.copy_(rarity(texts, maker.reader, config.vocab_size))
    return network


def labeler_of(network: MiniNetwork, maker: WindowMaker, name: str = "mini") -> Labeler:
    """Return a labeler that runs a network as it stands; the network is frozen by that."""
    import torch

    from tokenprune.models.batches import padded_tokens
    from tokenprune.models.labeler import Labeler
    from tokenprune.models.labeler.checkpoint import Place
    from tokenprune.models.labeler.mini import MiniRunner

    place = Place(str(next(network.parameters()).device), torch.float32)
    return Labeler(
        name,
        maker.reader,
        maker.frame,
        MiniRunner(network, place),
        maker.max_length,
        batch_tokens=padded_tokens(place.device),
    )


def data(folder: Path | None, files: Sequence[Path] | None = None) -> Split:
    """Load and split all sets; those that may not be trained on are there to be kept apart from.

    Args:
        folder: of the sets; those it does not have are left out.
        files: labels of one's own; they are taken as the set ``own``.

    Raises:
        ConfigError: there is nothing, or a file is not in the schema.
    """
    items = [item for path in files or () for item in load_file(path, OWN)]
    if not files or folder is not None:
        root = data_folder(folder)
        found = [name for name, info in SETS.items() if (root / info.folder / name).is_dir()]
        items += [item for name in found for item in load(name, root)]
    return split(items)


@app.command()
def fit(
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    source: Annotated[Path | None, typer.Option("--data", help="Folder of the sets.")] = None,
    steps: Annotated[int, typer.Option(help="Steps with the encoder.")] = 1500,
    head_steps: Annotated[int, typer.Option(help="Steps before, on a frozen encoder.")] = 200,
    rate: Annotated[float, typer.Option(help="Peak learning rate of the encoder.")] = 6e-5,
    seed: Annotated[int, typer.Option(help="Of data order and dropout.")] = 0,
    evaluate_every: Annotated[int, typer.Option(help="Steps between evaluations.")] = 250,
    questions: Annotated[int, typer.Option(help="Validation questions of each set.")] = 30,
    max_length: Annotated[int, typer.Option(help="Tokens of a window.")] = MAX_LENGTH,
    file: Annotated[
        list[Path] | None, typer.Option(help="Further labels: JSONL in the schema of the sets, or of silver.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="A torch device; by default the accelerator.")] = None,
) -> None:
    """Train; the model of the best validation is RUN/best.pt."""
    from tokenprune.models.catalog import model_path
    from tokenprune.models.device import pick_device
    from tokenprune.training.fit import Fit, Recipe
    from tokenprune.training.validation import auc
    from tokenprune.training.validation import questions as choose

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        names = check(list(MIXTURE))
        folds = data(source, file)
        items = [item for item in folds.train if item.set_name in names]
        labelled = [
            i for i in folds.validation if i.set_name in names and i.label_type != "passage_relevance"
        ]
        held = choose(labelled, questions)
        if not held:
            raise ConfigError("no validation questions: the sets are too small, or --questions is 0")
        maker = reader_of(Path(model_path(START)), max_length)
        network = start(maker, [p.text for item in items[::3] for p in item.passages[:3]])
        recipe = Recipe(
            steps=steps, head_steps=head_steps, encoder_rate=rate, seed=seed, evaluate_every=evaluate_every
        )

        def evaluate(network: MiniNetwork) -> float:
            figures = auc(labeler_of(network, maker), held)
            logging.info("%s", json.dumps({k: round(v, 3) for k, v in figures.items()}))
            return sum(figures.values()) / len(figures)

        run = Fit(network.to(pick_device(device)), maker, recipe, out)
        logging.info("%d items, %d validation questions", len(items), sum(map(len, held.values())))
        progress = run.run(items, evaluate)
    except TokenPruneError as error:
        typer.echo(f"tokenprune: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{out}/best.pt: mean ROC-AUC {progress.best:.4f} at step {progress.best_step}")


@app.command()
def pack(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    out: Annotated[Path, typer.Option(help="Folder of the model, made when absent.")],
    threshold: Annotated[float, typer.Option(help="Default keep threshold of the model.")] = 0.1,
    lexical: Annotated[float, typer.Option(help="Weight of exact words beside the model, in logits.")] = 0.0,
    rank_weight: Annotated[
        float, typer.Option(help="What a sentence loses for its passage's rank, in logits per unit.")
    ] = 0.0,
    rank_slack: Annotated[
        float, typer.Option(help="How far below the best rank a passage may be before it does.")
    ] = 0.0,
    max_length: Annotated[int, typer.Option(help="Tokens of a window.")] = MAX_LENGTH,
    merge: Annotated[
        float, typer.Option(help="Share of the trained encoder; the rest is the encoder it started from.")
    ] = 1.0,
) -> None:
    """Write the best model of a run in 8 bits, with the tokenizer it needs."""
    import torch

    from tokenprune.models.catalog import model_path
    from tokenprune.models.labeler.mini_layer import MiniConfig
    from tokenprune.models.labeler.mini_network import MiniNetwork

    try:
        source = Path(model_path(START))
        if not (run / "best.pt").exists():
            raise ConfigError(f"{run} has no best.pt: no evaluation has been made yet")
        network = MiniNetwork(MiniConfig())
        network.load_state_dict(torch.load(run / "best.pt", map_location="cpu", weights_only=True)["network"])
        if merge != 1.0:
            blend(network, source, merge)
        judgement = {
            "default_threshold": threshold,
            "lexical": lexical,
            "rank_weight": rank_weight,
            "rank_slack": rank_slack,
        }
        write(network, source / "tokenizer.json", out, max_length, judgement)
    except TokenPruneError as error:
        typer.echo(f"tokenprune: {error}", err=True)
        raise typer.Exit(1) from error
    size = sum(f.stat().st_size for f in out.iterdir())
    typer.echo(f"{out}: {size / 1e6:.1f} MB")


@app.command()
def rank(
    folder: Annotated[Path, typer.Argument(help="A packed model; its rank head is replaced.")],
    source: Annotated[Path | None, typer.Option("--data", help="Folder of the sets.")] = None,
    seed: Annotated[int, typer.Option(help="Of the lists, their order, and the head's start.")] = 0,
    held: Annotated[int, typer.Option(help="Validation lists of each set.")] = 80,
    device: Annotated[str | None, typer.Option(help="A torch device; by default the accelerator.")] = None,
) -> None:
    """Fit the rank head to lists of passages; all else of the model stays as it is."""
    from dataclasses import replace

    from tokenprune.models.device import pick_device
    from tokenprune.training.mixture import RANKED, ranked
    from tokenprune.training.rank import RankRecipe, fit_rank, ndcg, read

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        check(list(RANKED))
        config, network = load_packed(folder)
        # Kept apart among themselves alone: the questions of nq20 recur in sets of sentences, and lists whose
        # passages the network was not trained on show better what it finds in new ones.
        folds = split([item for name in RANKED for item in load(name, data_folder(source))])
        maker = reader_of(folder, config["max_length"])
        network = network.to(pick_device(device))
        fewer = {name: replace(part, cap=held) for name, part in RANKED.items()}
        held_of = {}
        for name in RANKED:
            own = ranked([i for i in folds.validation if i.set_name == name], seed, fewer)
            held_of[name] = list(read(network, maker, own))
            logging.info("%s: %d held lists", name, len(held_of[name]))
        before = {name: ndcg(network, lists) for name, lists in held_of.items() if lists}
        lists = []
        for number, one in enumerate(read(network, maker, ranked(folds.train, seed)), 1):
            lists.append(one)
            if number % 50 == 0:
                logging.info("%d lists read", number)
        fit_rank(network, lists, [one for own in held_of.values() for one in own], RankRecipe(seed=seed))
        after = {name: ndcg(network, lists) for name, lists in held_of.items() if lists}
        write(network, folder / "tokenizer.json", folder, config["max_length"], config)
    except TokenPruneError as error:
        typer.echo(f"tokenprune: {error}", err=True)
        raise typer.Exit(1) from error
    for name in after:
        typer.echo(
            f"{name}: nDCG@5 of {len(held_of[name])} held lists {before[name]:.3f} -> {after[name]:.3f}"
        )


@app.command()
def fuse(
    folder: Annotated[Path, typer.Argument(help="A packed model; how its rank is made is replaced.")],
    source: Annotated[Path | None, typer.Option("--data", help="Folder of the sets.")] = None,
    seed: Annotated[int, typer.Option(help="Of the lists.")] = 0,
    count: Annotated[int, typer.Option("--parts", help="Each ranked by weights fitted to the others.")] = 5,
    device: Annotated[str | None, typer.Option(help="A torch device; by default the accelerator.")] = None,
) -> None:
    """Fit the sum that the rank is, to lists the model was not trained on; all else stays as it is."""
    from tokenprune.models.device import pick_device
    from tokenprune.training.fuse import crossed, fit_fusion
    from tokenprune.training.lists import FUSED, parts, taken, unread
    from tokenprune.training.rank import ndcg_of, ranks_of, read

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        check(list(FUSED))
        config, network = load_packed(folder)
        if network.fuse is None:
            network.add_fusion()
        maker = reader_of(folder, config["max_length"])
        network = network.to(pick_device(device))
        root = data_folder(source)
        found = [name for name, info in SETS.items() if (root / info.folder / name).is_dir()]
        items, lists = [], []
        for item in taken(unread([i for name in found for i in load(name, root)], list(FUSED)), FUSED, seed):
            for one in read(network, maker, [item]):
                items.append(item)
                lists.append(one)
                if len(lists) % 50 == 0:
                    logging.info("%d lists read", len(lists))
        before = ranks_of(network, lists)
        across = crossed(network, lists, parts(items, count, seed))
        fit_fusion(network, lists)
        write(network, folder / "tokenizer.json", folder, config["max_length"], config)
    except TokenPruneError as error:
        typer.echo(f"tokenprune: {error}", err=True)
        raise typer.Exit(1) from error
    for name in FUSED:
        if own := [n for n, item in enumerate(items) if item.set_name == name]:
            old, new = (sum(ndcg_of(lists[n], r[n]) for n in own) / len(own) for r in (before, across))
            typer.echo(f"{name}: nDCG@5 of {len(own)} lists {old:.4f} -> {new:.4f}")


def load_packed(folder: Path) -> tuple[dict[str, Any], MiniNetwork]:
    """Return the config and the network of a folder that `write` wrote.

    Raises:
        ConfigError: it is no such folder, or its ``max_length`` is lost.
        ModelError: its weights cannot be read or do not fit.
    """
    from tokenprune.models.labeler.checkpoint import open_checkpoint
    from tokenprune.models.labeler.mini import matches, network_of

    if not folder.is_dir():  # a name would be looked for on the hub
        raise ConfigError(f"there is no folder {folder}")
    checkpoint = open_checkpoint(str(folder))
    if not matches(checkpoint.config) or "max_length" not in checkpoint.config:
        raise ConfigError(f"{folder} is not a packed model: it was not written by `pack`")
    return checkpoint.config, network_of(checkpoint)


def blend(network: MiniNetwork, start_folder: Path, share: float) -> None:
    """Move the encoder's weights back towards its start (WiSE-FT, arXiv 2109.01903, equation 1), in place.

    Args:
        network: trained from the encoder in ``start_folder``.
        start_folder: Hugging Face layout.
        share: of the trained weights, 0 to 1.
    """
    import torch
    from safetensors.torch import load_file

    from tokenprune.models.labeler.mini_start import from_bert

    before = from_bert(load_file(start_folder / "model.safetensors"), network.config).layers.state_dict()
    after = network.layers.state_dict()
    network.layers.load_state_dict({k: torch.lerp(before[k], v, share) for k, v in after.items()})


def write(
    network: MiniNetwork,
    tokenizer: Path,
    out: Path,
    max_length: int,
    judgement: Mapping[str, Any],
) -> None:
    """Write the folder that `models.labeler.mini` describes.

    Args:
        network: what is packed.
        tokenizer: a tokenizer.json.
        out: the folder, made when absent.
        max_length: tokens of a window.
        judgement: fields of `models.labeler.mini.JUDGEMENT`; others are not looked at.
    """
    from safetensors.torch import save_file

    from tokenprune.models.labeler.mini import JUDGEMENT, MODEL_TYPE
    from tokenprune.models.labeler.mini import pack as packed

    out.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": MODEL_TYPE,
        "max_length": max_length,
        **{name: judgement.get(name, value) for name, value in JUDGEMENT.items()},
        **network.config.to_dict(),
    }
    (out / "special_tokens_map.json").write_text(json.dumps(_ROLES, indent=1) + "\n", encoding="utf-8")
    if tokenizer.resolve() != (out / "tokenizer.json").resolve():
        shutil.copyfile(tokenizer, out / "tokenizer.json")
    weights = out / "model.safetensors"
    # Both whole before either takes its place: a model is written again into the folder it was read from.
    with whole_file(out / "config.json") as described, whole_file(weights) as half:
        described.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        save_file(packed(network.state_dict()), half)
    weights.chmod(0o644)  # it is written for its owner alone


if __name__ == "__main__":
    app()
